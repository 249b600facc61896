"""What the two language-model sources share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from softmap.hf import SoftmapForCausalLM
from softmap.interop.source import fill, widest

EMBEDDING = "model.embed_tokens.weight"


def fill_causal_lm(
    model: SoftmapForCausalLM, weights: Mapping[str, Tensor], head: Tensor | None
) -> None:
    """Give ``model`` its weights, none of them rounded; no ``head`` ties it to the embedding."""
    weights = {**weights, "lm_head.weight": weights[EMBEDDING] if head is None else head}
    dtype = widest(weights.values())
    fill(model, weights, dtype)
    model.tie_weights()
    model.config.dtype = dtype
