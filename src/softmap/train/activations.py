"""What a block keeps of its forward pass for its backward pass; the rest is computed again."""

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

# Matrix products (projections, MLPs) and outputs of attention: expensive to compute, small to keep.
# Batched products are not among them: they are maps.
_KEPT = ("aten::mm", "aten::addmm", "aten::_scaled_dot_product", "softmap")


def checkpoint_activations(model: nn.Module, kept: str) -> None:
    """Set what every block keeps for its backward pass.

    Args:
        kept: ``"none"`` changes nothing, so that everything is kept; ``"block"`` keeps a block's
            input alone; ``"selective"`` keeps that, matrix products and the outputs of attention.
    """
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
