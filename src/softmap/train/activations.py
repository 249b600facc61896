"""What a block keeps of its forward pass for its backward pass; the rest is computed once more."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from softmap.nn import Block

# Products of matrices (projections, MLPs) and outputs of attention: dear to compute, small to keep.
# Not batched products, which are maps.
_KEPT = ("aten::mm", "aten::addmm", "aten::_scaled_dot_product", "softmap")


def checkpoint_activations(model: nn.Module, kept: str) -> None:
    """``"none"``: all is kept, and nothing is changed; ``"block"``: a block's input alone;
    ``"selective"``: that, products of matrices and the outputs of attention."""
    if kept == "none":
        return
    again: Any = partial(checkpoint, use_reentrant=False)
    if kept == "selective":
        again = partial(again, context_fn=_contexts)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = again


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    keep = isinstance(op, torch._ops.OpOverload) and op.name().startswith(_KEPT)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
