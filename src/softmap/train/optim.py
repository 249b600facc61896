"""AdamW and which parameters it decays."""

from __future__ import annotations

import torch
from torch import nn

_FUSED_DEVICES = {"cpu", "cuda"}


def weight_decay_groups(
    model: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """``(decayed, not decayed)``: each trainable parameter once, by its first name.

    Decayed: matrices (two axes or more). Not decayed: everything with fewer axes (norms, biases,
    gains, lambdas, per-head scalars); parameters with the attribute ``no_weight_decay = True``
    (per-head vectors and tables); and embeddings with what is tied to them, since a decayed row
    shrinks at each step but is pulled back only when its token occurs.
    """
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    decayed: dict[str, nn.Parameter] = {}
    free: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = getattr(parameter, "no_weight_decay", False) or id(parameter) in embeddings
        (free if exempt or parameter.ndim < 2 else decayed)[name] = parameter
    return decayed, free


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW over ``weight_decay_groups``; one fused kernel where the device has it."""
    decayed, free = weight_decay_groups(model)
    groups = [
        {"params": list(decayed.values()), "weight_decay": weight_decay},
        {"params": list(free.values()), "weight_decay": 0.0},
    ]
    devices = {p.device.type for p in (*decayed.values(), *free.values())}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=betas,
        fused=devices <= _FUSED_DEVICES,
    )
