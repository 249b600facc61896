"""Tiny models of the families that take softmap attention, and quiet progress bars."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from softmap.hf import swap
from softmap.hf.swapped.attention import SwappedAttention
from softmap.testing.subject import perturb, seeded

PLAIN = {
    "vocab_size": 31, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2, "attention_bias": True},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "Qwen2": {
        "num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4,
        "max_window_layers": 1,
    },
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "GPTNeoX": {},
}  # fmt: skip


@pytest.fixture
def family() -> Callable[..., Any]:
    """A model of a family in float64, its weights large enough that maps are far from uniform."""

    def build(name: str = "Llama", head: str = "ForCausalLM", **fields: Any) -> Any:
        config = getattr(transformers, f"{name}Config")(**(PLAIN | FAMILIES[name] | fields))
        with seeded(0):
            return perturb(getattr(transformers, f"{name}{head}")(config)).double().eval()

    return build


@pytest.fixture
def swapped(family: Callable[..., Any]) -> Callable[..., Any]:
    """The same with softmap attention, whose own weights are off their start."""

    def build(variant: Any, name: str = "Llama", layers: Any = None, **fields: Any) -> Any:
        model = family(name, **fields)
        with seeded(1):
            swap(model, variant, layers)
            for module in model.modules():
                if isinstance(module, SwappedAttention):
                    perturb(module.attention.edits)
        return model

    return build


@pytest.fixture
def plain_logits() -> Callable[..., torch.Tensor]:
    """Logits of a copy with transformers' own eager attention."""

    def logits(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        model = copy.deepcopy(model)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            return model(*args, **kwargs).logits

    return logits
