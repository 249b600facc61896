"""The optimiser of a training: AdamW, or Muon for hidden matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from softmap.errors import SoftmapError
from softmap.nn.decay import never_decayed
from softmap.train.options import TrainingOptions

_FUSED_DEVICES = {"cpu", "cuda"}


def weight_decay_groups(
    model: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Returns ``(decayed, not decayed)`` parameters by name, as [`softmap.nn.decays`][] decides.

    Each trainable parameter is there once, by its first name. Parameters tied to an embedding are
    not decayed.
    """
    exempt = never_decayed(model)
    decayed: dict[str, nn.Parameter] = {}
    free: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter in exempt else decayed)[name] = parameter
    return decayed, free


def optimizer_of(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Returns the optimiser that ``options`` name, over the trainable parameters of ``model``."""
    given: dict[str, Any] = {"lr": options.peak_lr, "weight_decay": options.weight_decay}
    if options.optimizer == "adamw":
        return adamw(model, betas=options.betas, **given)
    matrices = hidden_matrices(model)
    others = {p for p in model.parameters() if p.requires_grad} - set(matrices.values())
    parts = [_muon(matrices, **given)] if matrices else []
    parts += [adamw(model, betas=options.betas, only=others, **given)] if others else []
    return CombinedOptimizer(parts)


def hidden_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns, by name, the decayed matrices that map hidden states to hidden states.

    The head's matrix and tensors of more than two axes are not among them.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    own = set() if head is None else set(head.parameters())
    decayed, _ = weight_decay_groups(model)
    return {name: p for name, p in decayed.items() if p.ndim == 2 and p not in own}


def _muon(matrices: dict[str, nn.Parameter], **given: Any) -> torch.optim.Optimizer:
    """Returns Muon with updates as large as AdamW's (arXiv 2502.16982), so the same peak serves
    both.
    """
    for name, p in matrices.items():
        if hasattr(p, "full_tensor"):
            raise no_shards(name)
    return torch.optim.Muon(matrices.values(), adjust_lr_fn="match_rms_adamw", **given)


def no_shards(name: str) -> SoftmapError:
    """Returns the error for Muon on shards: torch's rounds each product of shards, and fails on a
    rank that has none.
    """
    return SoftmapError(
        f"{name}: optimizer muon needs whole matrices: expected parallel.shard=1, found shards"
    )


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimisers as one, whose parameter groups and states are theirs, in this order."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one update with each optimiser."""
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of all optimisers."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]


def adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    only: Collection[nn.Parameter] | None = None,
) -> torch.optim.AdamW:
    """Returns AdamW over ``weight_decay_groups``, with one fused kernel where the device has it.

    Args:
        only: the parameters to take, by default all trainable ones.
    """
    decayed, free = (
        [p for p in group.values() if only is None or p in only]
        for group in weight_decay_groups(model)
    )
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    devices = {p.device.type for p in (*decayed, *free)}
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=betas,
        fused=devices <= _FUSED_DEVICES,
    )
