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
    gains, lambdas, per-head scalars); parameters that are tagged (per-head tables, mixes that start
    from the identity); and embeddings with what is tied to them, since a decayed row shrinks at
    each step but is pulled back only when its token occurs.

    A tag is ``no_weight_decay``: True on the parameter, or a tuple of parameter names on the module
    (its class) that owns them. Only the second outlives ``copy.deepcopy`` and ``from_pretrained``,
    which replace the parameters.
    """
    exempt = _exempt(model)
    decayed: dict[str, nn.Parameter] = {}
    free: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_free = parameter.ndim < 2 or id(parameter) in exempt
            (free if is_free else decayed)[name] = parameter
    return decayed, free


def _exempt(model: nn.Module) -> set[int]:
    """The ``id`` of each parameter that is an embedding's or tagged."""
    found: set[int] = set()
    for module in model.modules():
        names = getattr(module, "no_weight_decay", ())
        for name, parameter in module.named_parameters(recurse=False):
            tagged = name in names or getattr(parameter, "no_weight_decay", False)
            if tagged or isinstance(module, nn.Embedding):
                found.add(id(parameter))
    return found


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
