"""DCMHA's composition, its adjoint written by hand: fewer passes over the map than autograd's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmap.maps import first_order
from softmap.variants._rows import rows_outer, rows_times


class Composition(torch.autograd.Function):
    """The composition and its adjoint; it cannot be differentiated twice.

    What the row's token gives is one H x H matrix a row: a product for each row, forward and
    backward. What the key's token gives is too thin for products: broadcast sums, through one
    buffer, since a fresh temporary for each would push the map out of the cache.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor, *t: Tensor | None) -> Tensor:
        static, q1, q2, qg, k1, k2, kg = t
        mix = _row_matrices(m, static, q1, q2, qg)
        out = rows_times(mix, m)
        lows = _head_sums(m, k1)
        for low, up in zip(lows, _ranks(k2), strict=True):
            out.addcmul_(low, up)
        if kg is not None:
            out.addcmul_(m, kg.transpose(1, 2).unsqueeze(2))
        ctx.save_for_backward(m, *t)
        ctx.mix, ctx.lows = mix, lows
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m, static, q1, q2, qg, k1, k2, kg = ctx.saved_tensors
        mix, lows = ctx.mix, ctx.lows
        back = rows_times(mix.transpose(2, 3), grad)
        of_rows = _row_gradients(m, grad, static, q1, q2, qg)
        d_k1 = d_k2 = d_kg = None
        if k1 is not None:
            ups = _head_sums(grad, k2)
            for up, down in zip(ups, _ranks(k1), strict=True):
                back.addcmul_(up, down)
            d_k2 = torch.stack(_row_sums(grad, lows)).permute(1, 3, 0, 2)
            d_k1 = torch.stack(_row_sums(m, ups)).permute(1, 3, 0, 2)
        if kg is not None:
            back.addcmul_(grad, kg.transpose(1, 2).unsqueeze(2))
            d_kg = _row_sums(grad, [m])[0].transpose(1, 2)
        return back, *of_rows, d_k1, d_k2, d_kg


def _row_matrices(
    m: Tensor, static: Tensor | None, q1: Tensor | None, q2: Tensor | None, qg: Tensor | None
) -> Tensor:
    """(B, R, H, H) what each row's heads are multiplied with: W_b + w1_q w2_q + g_q."""
    B, H, R, _ = m.shape
    mix = m.new_zeros(B, R, H, H)
    if q1 is not None and q2 is not None:
        # Not a product: at rank 2 its set-up costs more.
        for down, up in zip(q1.unbind(2), q2.unbind(2), strict=True):
            mix = mix.addcmul_(up.unsqueeze(3), down.unsqueeze(2))
    if static is not None:
        mix += static.T
    mix.diagonal(dim1=2, dim2=3).add_(1.0 if qg is None else 1.0 + qg)
    return mix


def _row_gradients(
    m: Tensor,
    grad: Tensor,
    static: Tensor | None,
    q1: Tensor | None,
    q2: Tensor | None,
    qg: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Of static, q1, q2 and qg, through that of the matrices."""
    if static is None and q1 is None and qg is None:
        return None, None, None, None
    d = rows_outer(grad, m)
    d_static = None if static is None else d.sum((0, 1)).T
    d_qg = None if qg is None else d.diagonal(dim1=2, dim2=3)
    if q1 is None or q2 is None:
        return d_static, None, None, d_qg
    d = d.unsqueeze(2)
    return d_static, (q2.unsqueeze(4) * d).sum(3), (q1.unsqueeze(3) * d).sum(4), d_qg


def _ranks(w: Tensor | None) -> Sequence[Tensor]:
    """(B, C, rank, H) as (B, H, 1, C) for each rank."""
    return () if w is None else w.permute(2, 0, 3, 1).unsqueeze(3).unbind(0)


def _head_sums(m: Tensor, w: Tensor | None) -> list[Tensor]:
    """For each rank (B, 1, R, C): the sum over heads of m times w (B, C, rank, H)."""
    product = torch.empty_like(m)
    return [torch.mul(m, one, out=product).sum(1, keepdim=True) for one in _ranks(w)]


def _row_sums(m: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
    """For each of the others (B, H, C): the sum over rows of m times it."""
    product = torch.empty_like(m)
    return [torch.mul(m, other, out=product).sum(2) for other in others]
