"""Whole models for the bench: their backend, and the check of their results."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from softmap.nn import Attention
from softmap.ops.precision import GRADIENT, OUTPUT

# As for single calls; a whole model accumulates more rounding.
FLOOR = {torch.float32: 1e-4, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def with_impl(model: nn.Module, impl: str) -> Any:
    """Set the backend of the model's attention layers; returns the model."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.impl = impl
    return model


@torch.no_grad()
def perturbed(model: nn.Module, std: float = 0.02) -> Any:
    """Returns a copy with N(0, std) added to every parameter: many branches are zero initially."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.add_(torch.randn(p.shape, generator=generator).to(p) * std)
    return model


def gradient_error(
    model: nn.Module, ids: Tensor, forward: Callable[[Any, Tensor], Tensor], dtype: torch.dtype
) -> dict[str, Any]:
    """Returns the error of the gradient of all parameters as one vector, beside the dense map's.

    Args:
        forward: ``forward(model, ids)`` returns the loss under the run's own precision.
    """
    impls = {a.impl for a in model.modules() if isinstance(a, Attention)}
    truth_model = with_impl(perturbed(model).double(), "reference")
    truth = _gradient(truth_model, truth_model(input_ids=ids, labels=ids).loss)
    plain_model = with_impl(perturbed(model), "reference")
    plain = _off(_gradient(plain_model, forward(plain_model, ids)), truth)
    ours_model = with_impl(perturbed(model), *impls)
    ours = _off(_gradient(ours_model, forward(ours_model, ids)), truth)
    return judged(ours, GRADIENT * max(plain, FLOOR[dtype]))


@torch.no_grad()
def decoding_error(
    model: nn.Module, ids: Tensor, decoded: Tensor, dtype: torch.dtype
) -> dict[str, Any]:
    """Returns the error of logits decoded with a cache, beside that of the whole dense map.

    Args:
        ids: all tokens, (B, T).
        decoded: logits of the last n tokens, (B, n, V).
    """
    kept = decoded.shape[1]
    plain_model = with_impl(copy.deepcopy(model), "reference")
    plain = plain_model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
    exact_model = with_impl(copy.deepcopy(model).double(), "reference")
    truth = exact_model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
    return judged(_off(decoded, truth), OUTPUT * max(_off(plain, truth), FLOOR[dtype]))


def judged(error: float, allowed: float) -> dict[str, Any]:
    """Returns an error, its allowance, and whether it is within it, which NaN never is."""
    return {"rms": error, "allowed": allowed, "ok": error <= allowed}


def _gradient(model: nn.Module, loss: Tensor) -> Tensor:
    loss.backward()
    found = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(found)


def _off(got: Tensor, true: Tensor) -> float:
    if got.shape != true.shape:
        return float("nan")
    return float((got.double() - true).norm() / true.norm())
