"""What the two language-model sources share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from softmap.hf import SoftmapForCausalLM
from softmap.interop.source import fill

EMBEDDING = "model.embed_tokens.weight"


def fill_causal_lm(
    model: SoftmapForCausalLM, weights: Mapping[str, Tensor], head: Tensor | None
) -> None:
    """Give ``model`` its weights in the embedding's dtype; no ``head`` ties it to the embedding."""
    embedding = weights[EMBEDDING]
    head = embedding if head is None else head
    fill(model, {**weights, "lm_head.weight": head}, embedding.dtype)
    model.tie_weights()
    model.config.dtype = embedding.dtype
