"""The C++ library's operators as PyTorch sees them: shapes for tracing, and the backward."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError


@cache
def register() -> None:
    """Register the operators, once, after the library is loaded."""
    library = "softmap_native"
    torch.library.register_fake(f"{library}::forward", _fake_forward)
    torch.library.register_fake(f"{library}::backward", _fake_backward)
    torch.library.register_autograd(f"{library}::forward", _backward, setup_context=_remember)
    torch.library.register_autograd(f"{library}::backward", _no_second, setup_context=_nothing)
    torch.library.register_fake(f"{library}::shaped_forward", lambda o, *rest: o.new_empty(o.shape))
    torch.library.register_fake(f"{library}::shaped_backward", _fake_shaped_backward)
    torch.library.register_autograd(
        f"{library}::shaped_forward", _shaped_backward, setup_context=_remember_all
    )
    torch.library.register_autograd(
        f"{library}::shaped_backward", _no_second, setup_context=_nothing
    )
    torch.library.register_fake(f"{library}::rms_norm", _fake_rms_norm)
    torch.library.register_fake(f"{library}::rms_norm_backward", _fake_rms_norm_backward)
    torch.library.register_autograd(
        f"{library}::rms_norm", _rms_norm_backward, setup_context=_remember_norm
    )
    torch.library.register_autograd(
        f"{library}::rms_norm_backward", _no_second, setup_context=_nothing
    )
    torch.library.register_fake(f"{library}::token_factors", _fake_token_factors)


def _fake_forward(q: Any, k: Any, v: Any, tensors: Any, plan: str, *rest: Any) -> Any:
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    return v.new_empty(_output_shape(q, v, plan)), q.new_empty(*q.shape[:3], 2, dtype=wide)


def _output_shape(q: Any, v: Any, plan: str) -> tuple[Any, ...]:
    """Returns (B, H', T, d')."""
    B, H, T, _ = q.shape
    return B, H >> plan.count(" subtract_pairs "), T, v.shape[3]


def _fake_backward(
    grad: Any, lse_grad: Any, statistics: Any, q: Any, k: Any, v: Any, tensors: Any, *rest: Any
) -> Any:
    return [t.new_empty(t.shape) for t in (q, k, v, *tensors)]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, tensors, *ctx.rest, first, last, positions = inputs
    ctx.set_materialize_grads(False)
    ctx.count = len(tensors)
    ctx.save_for_backward(q, k, v, *tensors, first, last, positions, output[1])


def log_sum_exp(statistics: Tensor) -> Tensor:
    """Returns the log-sum-exp (B, H, T) of each row, 0 where it sees nothing, from the
    operator's statistics (B, H, T, 2).

    Its gradient goes to the first of the two, which the operator takes for that of the sum.
    """
    inverse = statistics[..., 1].detach()
    return torch.where(inverse > 0, statistics[..., 0] - inverse.log(), 0.0)


def _backward(ctx: Any, grad: Tensor | None, of_statistics: Tensor | None) -> tuple[Any, ...]:
    if grad is None and of_statistics is None:
        return None, None, None, [None] * ctx.count, *([None] * (len(ctx.rest) + 3))
    q, k, v, *others = ctx.saved_tensors
    tensors, (first, last, positions, statistics) = others[: ctx.count], others[ctx.count :]
    grad = v.new_zeros(_output_shape(q, v, ctx.rest[0])) if grad is None else grad
    lse_grad = None if of_statistics is None else of_statistics[..., 0]
    dq, dk, dv, *rest = torch.ops.softmap_native.backward(
        grad, lse_grad, statistics, q, k, v, tensors, *ctx.rest, first, last, positions
    )
    return dq, dk, dv, rest, *([None] * len(ctx.rest)), None, None, None


def _nothing(ctx: Any, inputs: Any, output: Any) -> None:
    """Save nothing: there is no second derivative."""


def _no_second(ctx: Any, *grads: Any) -> Any:
    raise SoftmapError(
        "native operators have no second derivatives: softmap.attention and impl='reference' have"
    )


def _fake_shaped_backward(grad: Any, *inputs: Any) -> Any:
    return [t.new_empty(t.shape) for t in inputs[:5]]


def _remember_all(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _shaped_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    grads = torch.ops.softmap_native.shaped_backward(grad, *ctx.saved_tensors)
    return *grads, None, None


def _fake_rms_norm(x: Any, weight: Any, eps: float) -> Any:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape), x.new_empty(math.prod(x.shape[:-1]), dtype=wide)


def _fake_rms_norm_backward(grad: Any, inverse: Any, x: Any, weight: Any) -> Any:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _remember_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], x, weight)


def _rms_norm_backward(ctx: Any, grad: Tensor | None, _: Tensor) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None
    dx, dw = torch.ops.softmap_native.rms_norm_backward(grad, *ctx.saved_tensors)
    return dx, dw, None


def _fake_token_factors(x: Any, w1: Any, w2: Any, gate: Any, eps: float) -> Any:
    rank, heads = w2.shape[1] // 2, w2.shape[2]
    low = x.new_empty(*x.shape[:-1], rank, heads)
    return low, torch.empty_like(low), x.new_empty(*x.shape[:-1], heads)
