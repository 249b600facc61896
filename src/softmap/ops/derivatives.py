"""Second derivatives and function transforms, which the backends' own backward passes lack.

Backends differentiate once. If the gradient itself is to be differentiated, or comes in a batch
(``vmap``), it is computed by the reference instead, which is plain torch: right in every order,
with the memory of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from softmap.errors import SoftmapError, reason
from softmap.ops.call import Call, exact

# How the reference computes a whole call, output edits included.
Plain = Callable[[Call], Tensor]


def transformed() -> str | None:
    """Returns the function transform that is active, or None."""
    # A compiler knows no such stack.
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack():
        return "torch.func and vmap transform torch's own operations alone"
    if getattr(forward_ad, "_current_level", -1) >= 0:
        return "it has no forward-mode derivatives"
    return None


def differentiable_again(o: Tensor, call: Call, plain: Plain) -> Tensor:
    """Returns ``o``, the call's output by any backend, with derivatives of every order.

    To first order it is ``o`` and costs nothing.
    """
    # A compiler refuses second derivatives by itself.
    if not o.requires_grad or torch.compiler.is_compiling():
        return o
    flat = call.flatten()[1]
    none: list[Any] = [None] * len(flat)  # not the tensors: checkpointing is to free them
    return _Again.apply(o, call.unflatten(none), plain, *flat)  # type: ignore[no-any-return]


class _Again(torch.autograd.Function):
    """The identity of ``o``, whose gradient is computed by the reference where it has to be."""

    @staticmethod
    def forward(ctx: Any, o: Tensor, call: Call, plain: Plain, *flat: Tensor) -> Tensor:
        ctx.call, ctx.plain = call, plain
        ctx.save_for_backward(*flat)
        ctx.set_materialize_grads(False)
        return o.view_as(o)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        batched = grad is not None and _is_batch(grad)
        again = batched or torch.is_grad_enabled() or transformed() is not None
        if grad is None or not again:
            return grad, None, None, *([None] * len(ctx.needs_input_grad[3:]))
        try:
            return None, None, None, *_gradients(ctx, grad)
        except RuntimeError as error:
            if not batched:
                raise
            raise SoftmapError(
                "cannot take this batch of gradients (is_grads_batched, vectorize=True) at once; "
                f"torch.func.jacrev and hessian can: {reason(error)}"
            ) from error


def _is_batch(t: Tensor) -> bool:
    """Whether ``t`` is a batch of ``torch.autograd``'s own vmap (not of ``torch.func``'s)."""
    return torch._C._dispatch_keys(t).has(torch._C._dispatch_key_parse("Batched"))


def _gradients(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    """Returns the gradients of the call's inputs, differentiable if gradients are being
    recorded.
    """
    again, needs = torch.is_grad_enabled(), ctx.needs_input_grad[3:]
    with torch.enable_grad(), exact(grad.device):
        # Views: an input that is made of another must not add to the gradient of that one.
        ends = [t.view_as(t) for t in ctx.saved_tensors]
        out = ctx.plain(ctx.call.unflatten(ends))
        wanted = [t for t, need in zip(ends, needs, strict=True) if need]
        found = iter(torch.autograd.grad(out, wanted, grad, create_graph=again, allow_unused=True))
    return [next(found) if need else None for need in needs]
