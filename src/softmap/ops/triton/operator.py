"""The kernels as operators of torch, so that ``torch.compile`` takes a call whole.

``softmap::edited_attention`` and its gradient take tensors and a string (``plan.Spec``); fake
kernels say what comes out. Torch's own operators around them (masks, closed forms) are compiled as
usual.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import first_order
from softmap.ops.triton.plan import FIXED, Spec, loads, named


@torch.library.custom_op("softmap::edited_attention", mutates_args=())
def edited_attention(tensors: list[Tensor], spec: str) -> tuple[Tensor, Tensor]:
    """(o, lse) of ``launch.forward``."""
    from softmap.ops.triton.launch import forward

    return forward(tensors, loads(spec))


@edited_attention.register_fake
def _(tensors: list[Tensor], spec: str) -> tuple[Tensor, Tensor]:
    t, (B, H, T, _) = named(tensors), tensors[0].shape
    o = t["v"].new_empty(B, loads(spec).outputs, T, t["v"].shape[3])
    return o, t["q"].new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("softmap::edited_attention_backward", mutates_args=())
def edited_attention_backward(
    grad: Tensor, o: Tensor, lse: Tensor, tensors: list[Tensor], spec: str, needs: list[bool]
) -> list[Tensor]:
    """Gradients of the tensors that ``needs`` names: ``gradients.backward``."""
    from softmap.ops.triton.gradients import backward

    return backward(grad, o, lse, tensors, loads(spec), needs)


@edited_attention_backward.register_fake
def _(
    grad: Tensor, o: Tensor, lse: Tensor, tensors: list[Tensor], spec: str, needs: list[bool]
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t, need in zip(tensors, needs, strict=True) if need]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, ctx.spec = inputs
    ctx.needs = [t.requires_grad for t in tensors]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output, *tensors)


@first_order
def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[list[Tensor | None], None]:
    if grad is None:
        return [None] * len(ctx.needs), None
    o, lse, *tensors = ctx.saved_tensors
    found = iter(edited_attention_backward(grad, o, lse, tensors, ctx.spec, ctx.needs))
    return [next(found) if need else None for need in ctx.needs], None


edited_attention.register_autograd(_backward, setup_context=_save)


def attend(flat: list[Tensor], spec: Spec) -> Tensor:
    """o (B, outputs, T, d') with every gradient."""
    assert len(flat) >= len(FIXED)
    o, _ = edited_attention(flat, spec.dumps())
    return o
