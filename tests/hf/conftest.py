"""Small models of the transformers class, and quiet progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers.utils import logging

from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.testing.subject import perturb, seeded


@pytest.fixture(scope="package", autouse=True)
def quiet() -> Iterator[None]:
    logging.disable_progress_bar()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    logging.enable_progress_bar()


@pytest.fixture
def make() -> Callable[..., Any]:
    """A model in float64 whose parameters are off their start, so that logits are never tied."""

    def build(variant: Any = "transformer++", seed: int = 0, **fields: Any) -> Any:
        sizes = {"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
        with seeded(seed):
            model = SoftmapForCausalLM(SoftmapConfig(variant=variant, **(sizes | fields)))
            return perturb(model).double().eval()

    return build
