"""A convolution (1, k) along the keys, zero-padded to keep its width, as one matrix product.

With few channels on one side conv2d is much slower on a CPU, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softmap.maps import first_order

SLOPE = 0.01


def conv_out(m: Tensor, w: Tensor) -> Tensor:
    """Few channels in: (B, H, R, C) * (M, H, 1, k) -> (B, M, R, C). Shift, then multiply."""
    taps, width = w.shape[3], m.shape[3]
    m = F.pad(m, (taps // 2, taps // 2))
    return _times(_flat_out(w), torch.cat([m[..., n : n + width] for n in range(taps)], 1))


def conv_in(m: Tensor, w: Tensor) -> Tensor:
    """Few channels out: (B, M, R, C) * (H, M, 1, k) -> (B, H, R, C). Multiply, then add shifted."""
    taps, width = w.shape[3], m.shape[3]
    parts = F.pad(_times(_flat_in(w), m), (taps // 2, taps // 2)).unflatten(1, (taps, -1))
    out = parts[:, 0, ..., taps - 1 : taps - 1 + width]
    for n in range(1, taps):
        out = out + parts[:, n, ..., taps - 1 - n : taps - 1 - n + width]
    return out


def _flat_out(w: Tensor) -> Tensor:
    """(M, H, 1, k) as (M, k H)."""
    return w.squeeze(2).permute(0, 2, 1).flatten(1)


def _flat_in(w: Tensor) -> Tensor:
    """(H, M, 1, k) as (k H, M), the taps reversed."""
    return w.squeeze(2).flip(-1).permute(2, 0, 1).flatten(0, 1)


def _times(w: Tensor, m: Tensor) -> Tensor:
    """(M, K) times (B, K, R, C) over the channels. bmm, since matmul would transpose the maps."""
    out = torch.bmm(w.expand(m.shape[0], -1, -1), m.flatten(2))
    return out.unflatten(2, m.shape[2:])


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """(K, M), the adjoint of :func:`_times`: a (B, K, R, C) with b (B, M, R, C), over all cells."""
    return torch.bmm(a.flatten(2), b.flatten(2).transpose(1, 2)).sum(0)


def spread(m: Tensor, taps: int) -> Tensor:
    """(B, H, R, C) to (B, taps * H, R, C): tap n holds m[..., c + n - taps // 2], 0 outside."""
    out = m.new_empty(m.shape[0], taps, *m.shape[1:])
    for n, (to, source) in enumerate(_shifts(taps, m.shape[3])):
        out[:, n, ..., to] = m[..., source]
        out[:, n, ..., : to.start] = 0
        out[:, n, ..., to.stop :] = 0
    return out.flatten(1, 2)


def gather(m: Tensor, taps: int) -> Tensor:
    """The adjoint of :func:`spread`: every shifted copy moved back, and added up."""
    m = m.unflatten(1, (taps, -1))
    out = m[:, taps // 2].clone()
    for n, (to, source) in enumerate(_shifts(taps, m.shape[4])):
        if n != taps // 2:
            out[..., source].add_(m[:, n, ..., to])
    return out


def _shifts(taps: int, width: int) -> list[tuple[slice, slice]]:
    """For each tap, the columns written and the columns read; both empty beyond the width."""
    steps = [max(-width, min(width, n - taps // 2)) for n in range(taps)]
    return [
        (slice(max(0, -s), width - max(0, s)), slice(max(0, s), width + min(0, s))) for s in steps
    ]


class Refinement(torch.autograd.Function):
    """m + own + conv_in(hidden, w2), hidden = LeakyReLU(conv_out(m, w1) + offset), zero where
    ``ours`` is not.

    Kept until the backward pass: the spread map and the hidden one, in place of all between them.
    It cannot be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        m: Tensor,
        w1: Tensor,
        offset: Tensor,
        w2: Tensor,
        own: Tensor,
        ours: Tensor | None,
    ) -> Tensor:
        wide = spread(m, w1.shape[3])
        hidden = _times(_flat_out(w1), wide).add_(offset)
        hidden = F.leaky_relu_(hidden, SLOPE)
        if ours is not None:
            hidden.mul_(ours)
        ctx.save_for_backward(w1, w2, ours)
        ctx.wide, ctx.hidden, ctx.shapes = wide, hidden, (offset.shape, own.shape)
        return gather(_times(_flat_in(w2), hidden), w1.shape[3]).add_(m).add_(own)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        w1, w2, ours = ctx.saved_tensors
        wide, hidden = ctx.wide, ctx.hidden
        flat1, flat2, taps = _flat_out(w1), _flat_in(w2), w1.shape[3]
        g = spread(grad, taps)
        d2 = _outer(g, hidden)
        d_hidden = _times(flat2.T, g)
        d_hidden = torch.ops.aten.leaky_relu_backward(d_hidden, hidden, SLOPE, True)
        if ours is not None:
            d_hidden.mul_(ours)
        d1 = _outer(wide, d_hidden)
        d_m = gather(_times(flat1.T, d_hidden), taps).add_(grad)
        d_w1 = d1.view(taps, -1, d1.shape[1]).permute(2, 1, 0).unsqueeze(2)
        d_w2 = d2.view(taps, -1, d2.shape[1]).permute(1, 2, 0).flip(-1).unsqueeze(2)
        d_offset, d_own = (
            g.sum_to_size(shape) for g, shape in zip((d_hidden, grad), ctx.shapes, strict=True)
        )
        return d_m, d_w1, d_offset, d_w2, d_own, None
