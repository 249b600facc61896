"""Models of one layer, and which of their parameters a trainer has moved."""

from __future__ import annotations

from typing import Any

import torch

from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.testing.subject import perturb, seeded


def small(
    variant: Any = "diff+dcmha", cls: Any = SoftmapForCausalLM, seed: int = 0, **fields: Any
) -> Any:
    sizes = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 1, "pad_token_id": 256}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64, "eos_token_id": 256}
    with seeded(seed):
        return perturb(cls(SoftmapConfig(variant=variant, **(sizes | fields))))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of the parameters that training has changed; all must be finite."""
    assert all(p.isfinite().all() for p in model.parameters())
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
