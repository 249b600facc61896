"""Plain attention and the log-sum-exp of its rows, both differentiable, by torch's fused
kernels.

``scaled_dot_product_attention`` computes the log-sum-exp but does not return it; its operators do,
without a gradient. A channel of the values restores that: with dA = dO v^T and delta = sum_j A dA,
the scores' gradient is A (dA - delta), to which a gradient L of the log-sum-exp adds A L. A channel
of ones in the values, and of L in dO, adds L to dA; delta, which the kernels compute from the
output, does not change where the output has a zero in that channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import first_order
from softmap.ops.heads import per_map

_aten = torch.ops.aten
MULTIPLE = 8  # of channels, as kernels of GPUs want them


def refuses(q: Tensor) -> str | None:
    """Returns why there is no log-sum-exp for such queries, or None."""
    kind = q.device.type
    if kind == "cpu" or (kind == "cuda" and q.dtype != torch.float64):
        return None
    return f"SDPA gives no log-sum-exp of rows in {q.dtype} on {q.device}"


def width(channels: int) -> int:
    """Returns the width to which queries, keys and values are padded, with a channel of zeros
    at the end.
    """
    return (channels // MULTIPLE + 1) * MULTIPLE


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    is_causal: bool = False,
    attn_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns attention (B, H, T, d) and the log-sum-exp (B, H, T) of each row's scores.

    q (B, H, T, d) and k, v (B, G, S, d) have d = [`width`][]; the last channel of v is zero.
    """
    k, v = per_map(k, q.shape[1]), per_map(v, q.shape[1])
    if attn_mask is not None:
        attn_mask = attn_mask.expand(q.shape[0], -1, -1, -1)
    return _Attend.apply(q, k, v, attn_mask, is_causal, scale)  # type: ignore[no-any-return]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]:
        o, lse, *rest = _forward(q, k, v, mask, causal, scale)
        ctx.save_for_backward(q, k, v, mask, o, lse, *rest)
        ctx.causal, ctx.scale = causal, scale
        return o, lse[..., : q.shape[2]]

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
        q, k, v, mask, o, lse, *rest = ctx.saved_tensors
        end = slice(v.shape[-1] - 1, None)
        v, grad = v.clone(), grad.clone()
        v[..., end] = 1
        grad[..., end] = grad_lse[..., None]
        found = _backward(grad, q, k, v, mask, o, lse, rest, ctx.causal, ctx.scale)
        return *found, None, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, ...]:
    if q.device.type == "cpu":
        op = _aten._scaled_dot_product_flash_attention_for_cpu
        return op(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)  # type: ignore[no-any-return]
    op = _aten._scaled_dot_product_efficient_attention
    return op(q, k, v, _aligned(mask, q), True, 0.0, causal, scale=scale)  # type: ignore[no-any-return]


def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, o: Tensor, lse: Tensor,
    rest: list[Tensor], causal: bool, scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    if q.device.type == "cpu":
        op = _aten._scaled_dot_product_flash_attention_for_cpu_backward
        return op(  # type: ignore[no-any-return]
            grad, q, k, v, o, lse, 0.0, causal, attn_mask=mask, scale=scale
        )
    op = _aten._scaled_dot_product_efficient_attention_backward
    wanted = [True, True, True, False]
    return op(  # type: ignore[no-any-return]
        grad, q, k, v, _aligned(mask, q), o, lse, *rest, 0.0, wanted, causal, scale=scale
    )[:3]


def _aligned(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """Returns a mask whose rows begin at addresses that the kernel can read, for each head."""
    if mask is None:
        return None
    columns = mask.shape[-1]
    rows = torch.nn.functional.pad(mask, (0, -columns % (2 * MULTIPLE)))
    return rows[..., :columns].expand(-1, q.shape[1], -1, -1)
