"""Score convolution as operators of torch: forward, backward, shapes for compilers, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import first_order
from softmap.ops.triton import score_conv_launch as impl
from softmap.ops.triton.score_conv_plan import Packed

INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor w1, Tensor b, Tensor w2, Tensor bias, "
    "Tensor until, Tensor first, Tensor rows, Tensor cols, str kind, float scale, int window"
)
GRADIENTS = ", ".join(["Tensor"] * 7)


@torch.library.custom_op(
    "softmap::score_conv", mutates_args=(), schema=f"({INPUTS}) -> (Tensor, Tensor)"
)
def score_conv(
    q: Tensor, k: Tensor, v: Tensor, w1: Tensor, b: Tensor, w2: Tensor, bias: Tensor, until: Tensor,
    first: Tensor, rows: Tensor, cols: Tensor, kind: str, scale: float, window: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns o (B, H, T, d') and the logarithm, base 2, of each row's sum of exponentials (B, H,
    T).
    """
    where = impl.Where(until, first, rows, cols, kind, scale, window)
    return impl.forward(q, k, v, Packed(w1, b, w2, bias), where)


@score_conv.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = q.shape[:3]
    return q.new_empty(*shape, v.shape[3]), q.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "softmap::score_conv_backward",
    mutates_args=(),
    schema=f"(Tensor do, Tensor o, Tensor lse, {INPUTS}) -> ({GRADIENTS})",
)
def score_conv_backward(
    do: Tensor, o: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, w1: Tensor, b: Tensor,
    w2: Tensor, bias: Tensor, until: Tensor, first: Tensor, rows: Tensor, cols: Tensor, kind: str,
    scale: float, window: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Returns the gradients of q, k, v, w1, b, w2, bias."""
    where = impl.Where(until, first, rows, cols, kind, scale, window)
    return impl.backward(do, o, lse, q, k, v, Packed(w1, b, w2, bias), where)


@score_conv_backward.register_fake
def _(do: Tensor, o: Tensor, lse: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs[:7])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs[:11])
    ctx.rest = inputs[11:]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


@first_order
def _backward(ctx: Any, do: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if do is None:
        return (None,) * 14
    o, lse, *inputs = ctx.saved_tensors
    grads = score_conv_backward(do, o, lse, *inputs, *ctx.rest)
    return (*grads, *[None] * 7)


score_conv.register_autograd(_backward, setup_context=_setup)
