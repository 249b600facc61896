"""The context of cross-attention: another sequence's keys, projected once for any number of
rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from softmap.errors import SoftmapError
from softmap.nn.positions import Positions


class Context(NamedTuple):
    """What a layer keeps of a context (B, S, D), made by ``Attention.project_context``.

    Attributes:
        k: (B, G, S, d).
        v: (B, G', S, d').
        key: for each edit {name: (B, S, ...)}.
        mask: (B, S), True at real tokens; None if all are real.
        order: (B, S) the order in which the tokens are held, padding first, so that edits that read
            neighbouring keys meet none; None if it is the order in which they were given.
        rotated: whether the keys have rotary positions.
    """

    k: Tensor
    v: Tensor
    key: list[dict[str, Tensor]]
    mask: Tensor | None
    order: Tensor | None
    rotated: bool


def check_context(x: Any, dim: int, positions: Positions | None) -> None:
    """Raise ``ValueError`` unless the context is (B, S, dim) with S >= 1, and positions fit it."""
    shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[2] != dim or not x.shape[1]:
        raise SoftmapError(f"context must be (batch, tokens, {dim}), found {shape}")
    if positions is not None and positions.cols.shape[1] != x.shape[1]:
        raise SoftmapError(
            f"positions of the context must be of its {x.shape[1]} tokens, found those of "
            f"{positions.cols.shape[1]}"
        )


def check_layer(causal: bool, window: int | None) -> None:
    """Raise ``ValueError`` for a layer that is causal or has a window."""
    if causal:
        raise SoftmapError(
            "context is for cross-attention: expected a layer with causal=False, found causal=True"
        )
    check_none("goes by the places of one sequence's tokens: expected None beside context",
               window=window)  # fmt: skip


def check_none(why: str, **given: Any) -> None:
    """Raise ``ValueError`` for the first value that is not None, with its name and the reason."""
    for name, value in given.items():
        if value is not None:
            raise SoftmapError(f"{name} {why}, found {name}")
