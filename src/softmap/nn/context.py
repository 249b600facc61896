"""The keys of another sequence, which cross-attention reads: projected once, read by any rows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from softmap.errors import SoftmapError
from softmap.nn.positions import Positions


class Context(NamedTuple):
    """What one layer makes of a context (B, S, D), from ``Attention.project_context``.

    k (B, G, S, d), v (B, G', S, d'), key: per edit {name: (B, S, ...)}; mask: (B, S) True at real
    tokens, or None where all are. order: (B, S) the order in which the tokens are held where that
    is not the one in which they were given, or None: padding first, so that an edit that reads
    neighbouring keys meets none of it. rotated: whether the keys have rotary positions.
    """

    k: Tensor
    v: Tensor
    key: list[dict[str, Tensor]]
    mask: Tensor | None
    order: Tensor | None
    rotated: bool


def check_context(x: Any, dim: int, positions: Positions | None) -> None:
    """Raise ``ValueError`` for what is no context (B, S, dim) of at least one token, and for
    positions of another number of tokens."""
    shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[2] != dim or not x.shape[1]:
        raise SoftmapError(f"context must be (batch, tokens, {dim}), found {shape}")
    if positions is not None and positions.cols.shape[1] != x.shape[1]:
        raise SoftmapError(
            f"positions of the context must be of its {x.shape[1]} tokens, found those of "
            f"{positions.cols.shape[1]}"
        )


def check_layer(causal: bool, window: int | None) -> None:
    """Raise ``ValueError`` for a context of a layer that is causal or has a window."""
    if causal:
        raise SoftmapError(
            "context is for cross-attention: expected a layer with causal=False, found causal=True"
        )
    check_none("goes by the places of one sequence's tokens: expected None beside context",
               window=window)  # fmt: skip


def check_none(why: str, **given: Any) -> None:
    """Raise ``ValueError`` for the first of them that is not None: its name, and why not."""
    for name, value in given.items():
        if value is not None:
            raise SoftmapError(f"{name} {why}, found {name}")
