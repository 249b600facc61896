"""Tiny trained-looking models of each family and of softmap's own, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers

from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.testing.subject import perturb, seeded

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
THEIRS: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2, "attention_bias": True},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "GPTNeoX": {},
}


@pytest.fixture
def trained() -> Callable[..., Any]:
    """A causal language model of a family, or of one of softmap's variants, far from its start."""

    def build(name: str = "Llama") -> Any:
        with seeded(0):
            if name not in THEIRS:
                config = SoftmapConfig(variant=name, num_key_value_heads=2, **SIZES)
                return perturb(SoftmapForCausalLM(config)).eval()
            fields = {**SIZES, "intermediate_size": 48, **THEIRS[name]}
            config = getattr(transformers, f"{name}Config")(**fields)
            return perturb(getattr(transformers, f"{name}ForCausalLM")(config)).eval()

    return build
