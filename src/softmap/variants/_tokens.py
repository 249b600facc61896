"""Checks that an edit's query and key tensors depend on one token each, as they must."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.maps import Edit

TOKENS = 5
READS = (
    "reads more than its own token, but a cache, a padded batch and packed documents show it "
    "others or none (a sum over tokens belongs inside edit)"
)


def check_tokens(edits: Iterable[Any], dim: int, maps: int, keys: int, head_dim: int) -> None:
    """Raise ``ValueError`` where a query or key tensor of an edit reads more than its own
    token.

    Copies of the edits, in float64 and with parameters away from their start, are tried on tokens x
    of width ``dim``, with ``maps`` queries and ``keys`` keys of width ``head_dim``.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, TOKENS, dim), (2, maps, TOKENS, head_dim), (2, keys, TOKENS, head_dim))
    given = [
        torch.randn(*shape, dtype=torch.float64, device="cpu", generator=draw) for shape in shapes
    ]
    for edit in edits:
        probe = copy.deepcopy(edit).to("cpu", torch.float64)
        for what, among, alone in _compared(_moved(probe, draw), *given):
            if not torch.allclose(among.double(), alone.double(), rtol=1e-9, atol=1e-9):
                raise SoftmapError(what)


@torch.no_grad()
def by_token(edit: Edit, x: Tensor, q: Tensor, k: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields, for each query and key tensor, the message if they differ, the tensor (B, T, ...)
    for x (B, T, D), q (B, H, T, d) and k (B, G, T, d), and the edit's result for one token of
    one sequence at a time.

    Tensors of a wrong shape are left out: a call reports them.
    """
    among, (B, T) = edit(x, q, k), x.shape[:2]
    each = [
        edit(x[b : b + 1, t : t + 1], *(a[b : b + 1, :, t : t + 1] for a in (q, k)))
        for b in range(B)
        for t in range(T)
    ]
    for kind in ("query", "key"):
        for name, tensor in getattr(among, kind).items():
            alone = [getattr(tensors, kind)[name] for tensors in each]
            shapes, rest = {t.shape for t in alone}, tensor.shape[2:]
            if tensor.shape[1:2] == (T,) and shapes == {(1, 1, *rest)}:
                what = f"{type(edit).__name__}.{kind}_tensors: {name!r} {READS}"
                yield what, tensor.expand(B, T, *rest), torch.cat(alone).reshape(B, T, *rest)


def _compared(edit: Edit, x: Tensor, q: Tensor, k: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    try:
        yield from by_token(edit, x, q, k)
    except Exception as error:  # a user's own class
        raise SoftmapError(
            f"{type(edit).__name__}: cannot compute its tensors of tokens: {reason(error)}"
        ) from error


@torch.no_grad()
def _moved(edit: Edit, draw: torch.Generator) -> Edit:
    for parameter in edit.parameters():
        parameter.add_(torch.randn(parameter.shape, device="cpu", generator=draw), alpha=0.2)
    return edit
