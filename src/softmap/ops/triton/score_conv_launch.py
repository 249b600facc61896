"""Score convolution: launches of its kernels, and the bands of the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from softmap.ops.triton.common import bundle, launch, merge
from softmap.ops.triton.score_conv_backward import gradients_kernel, weights_kernel
from softmap.ops.triton.score_conv_forward import forward_kernel
from softmap.ops.triton.score_conv_plan import (
    KernelPlan,
    Packed,
    Tile,
    plan_of,
    tile_of,
)

# Both maps of a band of the backward pass should stay in the second-level cache (50 MB on an H100);
# few rows make the products with q and do slow, which add to all keys' sums once a band.
BAND_BYTES, LEAST_ROWS = 32 << 20, 128
# The least number of keys of a program, where keys are split since programs are few.
LEAST_SHARE = 512


class Where(NamedTuple):
    """Masks ([`softmap.ops.triton.common.Limits`][]), positions (b, T), (b, S), and numbers.

    Attributes:
        window: 0 is none; it only spares the backward pass keys that no row of a band sees.
    """

    until: Tensor
    first: Tensor
    rows: Tensor
    cols: Tensor
    kind: str
    scale: float
    window: int


class BandBounds(NamedTuple):
    """Rows [row, stop) against keys [first, last) of the sequences [begin, end)."""

    row: int
    stop: int
    first: int
    last: int
    begin: int
    end: int


def processors(device: torch.device) -> int:
    """Returns the number of programs that run side by side; two in the interpreter, so that it has
    more than one.
    """
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def forward(q: Tensor, k: Tensor, v: Tensor, p: Packed, at: Where) -> tuple[Tensor, Tensor]:
    """Returns o (B, H, T, d') in q's dtype and lse (B, H, T), base 2."""
    tile = tile_of(q.shape[1], q.shape[3], p.w1.shape[0], q.element_size())
    plan = plan_of(q, v, p, at.kind, tile)
    B, H, T, _ = q.shape
    blocks, groups = -(-T // plan.rows), plan.heads // plan.group
    splits = shares(blocks * B * groups, k.shape[2], q.device)
    dtype = q.dtype if splits == 1 else torch.float32
    o = q.new_empty(splits, B, H, T, v.shape[3], dtype=dtype)
    lse = q.new_empty(splits, B, H, T, dtype=torch.float32)
    places = [bundle(t, B) for t in (at.until, at.first, at.rows, at.cols)]
    launch(
        forward_kernel, (blocks, B * groups, splits),
        *(bundle(t) for t in (q, k, v)), p.w1, p.b, p.w2, p.bias, *places, o, lse,
        size_of(q, k, v, at.scale), splits, plan, **tile.hardware(),
    )  # fmt: skip
    if splits == 1:
        return o[0], lse[0]
    o, lse = merge(o, lse)
    return o.to(q.dtype), lse


def shares(programs: int, keys: int, device: torch.device) -> int:
    """Returns into how many shares the keys are split: with the few rows of decoding one share
    would be slow.
    """
    return max(1, min(processors(device) // programs, keys // LEAST_SHARE))


def size_of(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[int | float, ...]:
    """Returns H, H/G, T, S, d, d', the scale, and 0: the first sequence, as kernels take them."""
    H, S = q.shape[1], k.shape[2]
    return (H, H // k.shape[1], q.shape[2], S, q.shape[3], v.shape[3], scale, 0)


def backward(
    do: Tensor, o: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Packed, at: Where
) -> tuple[Tensor, ...]:
    """Returns the gradients of q, k, v, w1, b, w2 and bias, band by band in a fixed order."""
    tile = tile_of(q.shape[1], q.shape[3], p.w1.shape[0], q.element_size())
    plan = plan_of(q, v, p, at.kind, tile)
    do = do if do.stride(-1) == 1 else do.contiguous()
    delta = (do.float() * o.float()).sum(-1)
    sizes = [plan.hidden, p.w1.numel(), p.w2.numel(), p.bias.numel()]
    sums = q.new_zeros(processors(q.device), sum(sizes), dtype=torch.float32)
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    dk, dv = (torch.zeros_like(t, dtype=torch.float32, memory_format=torch.contiguous_format)
              for t in (k, v))  # fmt: skip
    for band in bands(q, k, plan, at.window):
        maps = band_maps(band, do, lse, delta, q, k, v, p, at, plan, tile, sums)
        add_products(band, *maps, do, q, k, dq, dk, dv, at.scale)
    b1, w1, w2, bias = (t.clone() for t in sums.sum(0).split(sizes))
    b = torch.cat([b1, b1.new_zeros(plan.heads)])  # the softmax does not see b2
    w1, w2 = w1.view(p.w1.shape).to(p.w1.dtype), w2.view(p.w2.shape).to(p.w2.dtype)
    return dq, dk.to(k.dtype), dv.to(v.dtype), w1, b, w2, bias


def bands(q: Tensor, k: Tensor, plan: KernelPlan, window: int) -> Iterator[BandBounds]:
    """Yields the bands of rows and sequences whose maps fit in ``BAND_BYTES``."""
    B, H, T, _ = q.shape
    S, R = k.shape[2], plan.rows
    width = S if not window else min(S, window + LEAST_ROWS)
    row_bytes = 2 * H * width * q.element_size()
    rows = max(LEAST_ROWS, BAND_BYTES // row_bytes) // R * R
    step = max(1, BAND_BYTES // (row_bytes * min(rows, T)))
    for begin in range(0, B, step):
        for row in range(0, T, rows):
            stop = min(row + rows, T)
            first = max(0, row + S - T - window + 1) if window else 0
            yield BandBounds(row, stop, first, stop + S - T, begin, min(begin + step, B))


def band_maps(
    band: BandBounds, do: Tensor, lse: Tensor, delta: Tensor, q: Tensor, k: Tensor, v: Tensor,
    p: Packed, at: Where, plan: KernelPlan, tile: Tile, sums: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns P and dS of a band, (B', H, rows, keys), in q's dtype; adds the gradients of
    parameters to sums.
    """
    part = slice(band.begin, band.end)
    shape = (band.end - band.begin, q.shape[1], band.stop - band.row, band.last - band.first)
    maps = tuple(q.new_empty(shape) for _ in range(3))
    size = size_of(q, k, v, at.scale)
    queries, keys, values, upstream = (bundle(t[part]) for t in (q, k, v, do))
    places = [t if t.shape[0] == 1 else t[part] for t in (at.until, at.rows, at.cols)]
    rest = (*p, *(bundle(t, shape[0]) for t in places))
    numbers = (size, (*band[:4], shape[0], 0), plan)
    use = plan.cols - plan.taps // 2 * 4
    tiles = shape[0] * -(-shape[2] // plan.rows) * -(-shape[3] // use)
    launch(
        weights_kernel, (tiles,), queries, keys, values, upstream, *rest, lse[part], delta[part],
        maps, *numbers, **tile.hardware(),
    )  # fmt: skip
    launch(
        gradients_kernel, (sums.shape[0],), queries, keys, *rest, maps, bundle(sums), *numbers,
        **tile.hardware(),
    )  # fmt: skip
    return maps[0], maps[2]


def add_products(
    band: BandBounds, weights: Tensor, ds: Tensor, do: Tensor, q: Tensor, k: Tensor,
    dq: Tensor, dk: Tensor, dv: Tensor, scale: float,
) -> None:  # fmt: skip
    """Stores dq of the band, and adds to dk and dv; the heads of a key head count as more rows."""
    part, rows, keys = slice(band.begin, band.end), slice(band.row, band.stop), slice(*band[2:4])
    B, G, width = ds.shape[0], k.shape[1], band.last - band.first
    ds, weights = (m.view(B, G, -1, width) for m in (ds, weights))
    own = dq[part, :, rows]
    own.copy_((ds @ k[part, :, keys]).view(own.shape)).mul_(scale)
    queries, upstream = (x[part, :, rows].reshape(B, G, -1, x.shape[-1]) for x in (q, do))
    dk[part, :, keys] += (ds.transpose(2, 3) @ queries).float() * scale
    dv[part, :, keys] += (weights.transpose(2, 3) @ upstream).float()
