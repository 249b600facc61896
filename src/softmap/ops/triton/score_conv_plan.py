"""Score convolution: tile sizes, and the edit's parameters as its kernels take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softmap.ops.triton.common import dot_precision, interpreting, next_power

BIASES = ("none", "alibi", "kerple", "fire")
MOST_HIDDEN, MOST_TAPS, MOST_WIDTH = 64, 7, 128
# The least size of a product on the matrix units; the interpreter takes any.
LEAST = 16
# Heads whose map is in registers at once.
GROUP = 16


class KernelPlan(NamedTuple):
    """All that a kernel is compiled for. Powers of two but for taps and channels.

    Attributes:
        group: heads whose map is in registers at once.
        channels: of the first convolution.
        fire: hidden channels of the bias.
        rows, cols: of a tile, halo included.
        width, value_width: d, d'.
    """

    taps: int
    hidden: int
    heads: int
    group: int
    channels: int
    fire: int
    bias: str
    rows: int
    cols: int
    width: int
    value_width: int
    precision: str


class Tile(NamedTuple):
    """Rows, columns and heads of a program's tile, with its warps and pipeline stages."""

    rows: int
    cols: int
    group: int
    warps: int
    stages: int = 1

    def hardware(self) -> dict[str, int]:
        """Returns the options of the launch. Without ``maxnreg`` ptxas may use 32 registers and
        spill the rest.
        """
        registers = min(255, 2048 // self.warps)
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": registers}


_override: list[Tile] = []


class Packed(NamedTuple):
    """w1 (taps, M, N), b (M + H: b1, b2), w2 (taps, H, M), bias (flat): padded with zeros to powers
    of two; N is H, or 2 H with a bias. The last three are float32."""

    w1: Tensor
    b: Tensor
    w2: Tensor
    bias: Tensor


def pack(t: dict[str, Tensor], kind: str, dtype: torch.dtype) -> Packed:
    """Returns the layer tensors of a [`softmap.variants.dape.ScoreConv`][] in the kernels' layout.

    The operations are plain torch, so that gradients reach the parameters.
    """
    w1, w2 = t["w1"].squeeze(2), t["w2"].squeeze(2)
    heads, (hidden, _, taps) = w2.shape[0], w1.shape
    H, M = padded(heads), padded(hidden)
    more, spare = H - heads, M - hidden
    first = w1.view(hidden, -1, heads, taps).permute(3, 0, 1, 2)
    first = pad(first, (0, more, 0, 0, 0, spare)).flatten(2)
    second = pad(w2.permute(2, 0, 1), (0, spare, 0, more))
    b = torch.cat([pad(t["b1"], (0, spare)), pad(t["b2"], (0, more))])
    own = {n.removeprefix("bias."): x.float() for n, x in t.items() if n.startswith("bias.")}
    bias = pack_bias(own, kind, more) if own else b.new_zeros(1, dtype=torch.float32)
    return Packed(first.to(dtype).contiguous(), b.float(), second.to(dtype).contiguous(), bias)


def pack_bias(t: dict[str, Tensor], kind: str, more: int) -> Tensor:
    """Returns the bias' parameters in the order of ``score_conv_bias``, with ``more`` heads of
    zeros.
    """
    if kind == "alibi":
        return pad(t["slopes"], (0, more))
    if kind == "kerple":
        return torch.cat([pad(t["p"], (0, more)), pad(t["a"], (0, more))])
    spare = padded(t["b1"].shape[0]) - t["b1"].shape[0]
    parts = [pad(t["w1"].flatten(), (0, spare)), pad(t["b1"], (0, spare))]
    parts += [pad(t["w2"], (0, spare, 0, more)).flatten(), pad(t["b2"], (0, more))]
    return torch.cat([*parts, t["c"].view(1), t["length"].view(1)])


def padded(channels: int) -> int:
    """Returns the channels rounded up to what ``tl.dot`` takes."""
    return max(next_power(channels), 1 if interpreting() else LEAST)


def plan_of(q: Tensor, v: Tensor, p: Packed, kind: str, tile: Tile) -> KernelPlan:
    """Returns all that is constant for the kernels of a call with these tensors and this tile."""
    taps, hidden, channels = p.w1.shape
    heads = p.w2.shape[1]
    group = min(tile.group, heads)
    fire = (p.bias.shape[0] - heads - 2) // (heads + 2) if kind == "fire" else 1
    width, value_width = (max(LEAST, next_power(x.shape[-1])) for x in (q, v))
    return KernelPlan(
        taps, hidden, heads, group, channels, fire, kind, tile.rows, tile.cols,
        width, value_width, dot_precision(q.dtype),
    )  # fmt: skip


def tile_of(heads: int, width: int, taps: int, itemsize: int = 2) -> Tile:
    """Returns the tile that fits sm_90 when compiled (results/triton-score-conv-sm90.json); it was
    not measured on a GPU.

    16 rows are the least that the matrix units take and all that the registers hold; more columns
    mean less halo. Two groups of wide heads need the shared memory of 16 columns, and so does
    float32, with half the heads.
    """
    if _override:
        return _override[-1]
    if itemsize == 4:
        return Tile(16, 16, GROUP // 2, 8)
    wide = heads > GROUP and width > 64 and taps <= 3
    return Tile(16, 16 if wide else 32, GROUP, 8)


@contextmanager
def tiles(rows: int, cols: int, group: int = GROUP, warps: int = 8) -> Iterator[None]:
    """Use fixed sizes for every kernel: in tests, and to measure others."""
    _override.append(Tile(rows, cols, group, warps))
    try:
        yield
    finally:
        _override.pop()
