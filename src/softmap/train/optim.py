"""AdamW and which parameters it decays."""

from __future__ import annotations

import torch
from torch import nn

from softmap.nn.decay import never_decayed

_FUSED_DEVICES = {"cpu", "cuda"}


def weight_decay_groups(
    model: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """``(decayed, not decayed)`` by [`softmap.nn.decays`][]: each trainable parameter once, by
    its first name. What is tied to an embedding is not decayed either."""
    exempt = never_decayed(model)
    decayed: dict[str, nn.Parameter] = {}
    free: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter in exempt else decayed)[name] = parameter
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
