"""The kernels as operators of torch, so that ``torch.compile`` takes a call whole.

``softmap::edited_attention`` and its gradient take tensors and a string (``plan.Spec``); fake
kernels say what comes out. Torch's own operators around them (masks, closed forms) are compiled as
usual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from softmap.maps import first_order
from softmap.ops.call import Call
from softmap.ops.folded import finish
from softmap.ops.triton.plan import Spec, loads, named, spec_of, tensors_of_call


def implementation(
    spec: Spec, tensors: list[Tensor]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns the forward and the backward function: the template's, or those of compositions of
    low rank.
    """
    from softmap.ops.triton import gradients, launch, low_rank_launch

    if low_rank_launch.takes(spec, tensors):
        return low_rank_launch.forward, low_rank_launch.backward
    return launch.forward, gradients.backward


@torch.library.custom_op("softmap::edited_attention", mutates_args=())
def edited_attention(tensors: list[Tensor], spec: str) -> tuple[Tensor, Tensor]:
    """Returns o and lse."""
    plan = loads(spec)
    found: tuple[Tensor, Tensor] = implementation(plan, tensors)[0](tensors, plan)
    return found


@edited_attention.register_fake
def _(tensors: list[Tensor], spec: str) -> tuple[Tensor, Tensor]:
    t, (B, H, T, _) = named(tensors), tensors[0].shape
    o = t["v"].new_empty(B, loads(spec).outputs, T, t["v"].shape[3])
    return o, t["q"].new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("softmap::edited_attention_backward", mutates_args=())
def edited_attention_backward(
    grad: Tensor, o: Tensor, lse: Tensor, tensors: list[Tensor], spec: str, needs: list[bool]
) -> list[Tensor]:
    """Returns the gradients of the tensors that ``needs`` names."""
    plan = loads(spec)
    found: list[Tensor] = implementation(plan, tensors)[1](grad, o, lse, tensors, plan, needs)
    return found


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


def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') with every gradient.

    Where no edit mixes heads, the weights edits act by their closed forms on the output of one
    online pass: pairs of outputs are subtracted, a mean of values is added.
    """
    spec = spec_of(call)
    o, _ = edited_attention(tensors_of_call(call, spec), spec.dumps())
    return o if spec.mixes else finish(call, o)
