"""What the code for a kind of call is made of, and the sizes at which it has to prove itself."""

from __future__ import annotations

from typing import Any

import torch
import triton

from softmap.ops.qualify.kind import CallKind
from softmap.ops.triton import launch, low_rank_launch, score_conv_launch
from softmap.ops.triton.common import interpreting, next_power
from softmap.ops.triton.configs import LEAST, config
from softmap.ops.triton.edits import EDITS
from softmap.ops.triton.plan import Link, Spec
from softmap.ops.triton.score_conv_plan import tile_of

KERNELS = ("forward", "rows", "keys")
Tiles = dict[str, list[int]]


def made_of(kind: CallKind) -> dict[str, Any]:
    """Returns versions, a digest of the sources, and tile sizes."""
    return {
        "triton": triton.__version__,
        "code": launch.code(),
        "interpreted": interpreting(),
        "tiles": tiles(kind),
    }


def trials(kind: CallKind) -> list[tuple[int, int]]:
    """Returns (queries, keys) of the trials: several tiles and a part of one, at odd lengths and at
    multiples of 16, for which Triton compiles other code; and so many keys that they are split
    among programs.
    """
    side = max(n for sizes in tiles(kind).values() for n in sizes[:2])
    odd, even = 2 * side + 5, 2 * side + 16
    share = score_conv_launch.LEAST_SHARE if _taps(kind) else launch.LEAST_SHARE
    many = 2 * share + 5
    if kind.queries == "one":
        return [(1, odd), (1, many)]
    if kind.queries == "some":
        return [(side + 5, odd), (5, many)]
    return [(odd, odd), (even, even)]


def tiles(kind: CallKind) -> Tiles:
    """Returns sizes by kernel, rows and keys of a tile first."""
    size, width = getattr(torch, kind.dtype.removeprefix("torch.")).itemsize, max(kind.widths)
    taps = _taps(kind)
    if taps:
        return {"score_conv": list(tile_of(kind.heads[0], kind.widths[0], taps, size))}
    spec = Spec(kind.heads, 0.0, _links(kind, "scores"), _links(kind, "weights"))
    low_rank = low_rank_launch.suits(spec, _shapes(kind), width)
    width = max(LEAST, next_power(width))
    if kind.queries == "all" and low_rank:
        return {n: list(config(n, 0, width, size, low_rank=True)) for n in (*KERNELS, "sums")}
    heads = spec.tile_heads()[0]
    return {name: list(config(name, heads, width, size)) for name in KERNELS}


def _shapes(kind: CallKind) -> list[tuple[str, tuple[int, ...]]]:
    """Returns name and shape, without sequences and tokens, of the edits' tensors."""
    return [(name, shape) for *_, tensors in kind.edits for _, name, shape, _ in tensors]


def _links(kind: CallKind, stage: str) -> tuple[Link, ...]:
    return tuple(
        Link(kernel, tuple((name, of) for of, name, *_ in tensors))
        for own, kernel, _, tensors in kind.edits
        if own == stage and kernel in EDITS
    )


def _taps(kind: CallKind) -> int:
    """Returns the width of a score convolution, or 0."""
    found = [t for _, kernel, _, t in kind.edits if kernel.startswith("score_conv")]
    return next((shape[-1] for t in found for _, name, shape, _ in t if name == "w1"), 0)
