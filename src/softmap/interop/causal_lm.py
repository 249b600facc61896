"""What the two language-model sources share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from softmap.hf import SoftmapForCausalLM
from softmap.interop.source import fill

EMBEDDING = "model.embed_tokens.weight"


def fill_causal_lm(
    model: SoftmapForCausalLM,
    weights: Mapping[str, Tensor],
    head: Tensor | None,
    dtype: torch.dtype,
) -> None:
    """Give ``model`` its weights as copies of ``dtype``; no ``head`` ties it to the embedding."""
    weights = {**weights, "lm_head.weight": weights[EMBEDDING] if head is None else head}
    fill(model, weights, dtype)
    model.tie_weights()
    model.config.dtype = dtype
