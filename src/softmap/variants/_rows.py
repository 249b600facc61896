"""Products of each row's heads with a matrix, the map seen as one H x C matrix a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rows_times(w: Tensor, m: Tensor) -> Tensor:
    """(B, G, R, C): the heads of each row of m (B, H, R, C) times w (B, R, G, H).

    The result has rows before heads in memory. A sequence at a time: over several, rows of m would
    have to be copied together first.
    """
    B, R, G, _ = w.shape
    out = m.new_empty(B, R, G, m.shape[3])
    for b in range(B):
        torch.bmm(w[b], m[b].transpose(0, 1), out=out[b])
    return out.transpose(1, 2)


def rows_outer(a: Tensor, b: Tensor) -> Tensor:
    """(B, R, G, H): a (B, G, R, C) times b (B, H, R, C) over the columns: the adjoint for w."""
    pairs = zip(a.transpose(1, 2), b.permute(0, 2, 3, 1), strict=True)
    return torch.stack([torch.bmm(x, y) for x, y in pairs])


class MixHeads(torch.autograd.Function):
    """m'_g = sum_h w[g,h] m_h of m (B, H, R, C) and one w (G, H) for all rows."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(m, w)
        return rows_times(_for_rows(w, m), m)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        m, w = ctx.saved_tensors
        if torch.is_grad_enabled():
            return MixHeads.apply(grad, w.T), (grad.flatten(2) @ m.flatten(2).mT).sum(0)
        return rows_times(_for_rows(w.T, m), grad), rows_outer(grad, m).sum((0, 1))


def _for_rows(w: Tensor, m: Tensor) -> Tensor:
    return w.expand(m.shape[0], m.shape[2], *w.shape)
