"""Token losses: the right targets, whatever the batch size; statistics by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from softmap.evals.loss import mean_and_stderr, token_losses
from softmap.hf import SoftmapConfig, SoftmapForCausalLM


class Certain(nn.Module):
    """Believes that token t + 1 follows token t, with probability 1/2 against 1/14 each."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not self.training and not torch.is_grad_enabled()
        logits = torch.zeros(*input_ids.shape, 8)
        logits.scatter_(2, ((input_ids + 1) % 8)[..., None], math.log(7))
        return SimpleNamespace(logits=logits * self.scale)


def test_losses_are_those_of_the_next_token() -> None:
    windows = np.array([[0, 1, 2, 3], [7, 0, 5, 6]])
    right, wrong = math.log(2), math.log(14)
    model = Certain().train()
    losses = token_losses(model, windows, batch_size=1)
    expected = [[right, right, right], [right, wrong, right]]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert losses.dtype == np.float32
    assert model.training


@pytest.fixture(scope="module")
def model() -> SoftmapForCausalLM:
    torch.manual_seed(0)
    return SoftmapForCausalLM(
        SoftmapConfig(
            variant="diff", vocab_size=50, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=17,
        )
    )  # fmt: skip


def test_batch_size_does_not_matter_and_the_model_agrees(model: SoftmapForCausalLM) -> None:
    windows = np.random.default_rng(0).integers(0, 50, (5, 17))
    losses = token_losses(model, windows, batch_size=2)
    np.testing.assert_allclose(losses, token_losses(model, windows, batch_size=5), rtol=1e-5)
    tokens = torch.from_numpy(windows)
    with torch.no_grad():
        own = model(input_ids=tokens, labels=tokens).loss
    assert losses.mean() == pytest.approx(own.item(), rel=1e-5)


def test_bf16_is_near_fp32(model: SoftmapForCausalLM) -> None:
    windows = np.random.default_rng(0).integers(0, 50, (3, 17))
    low, full = (token_losses(model, windows, precision=p) for p in ("bf16", "fp32"))
    assert 0 < np.abs(low - full).max() < 0.1


def test_the_error_is_over_windows() -> None:
    # Window means 1 and 3: mean 2, deviation sqrt(2), over sqrt(2).
    assert mean_and_stderr(np.array([[0.0, 2.0], [3.0, 3.0]])) == pytest.approx((2.0, 1.0))
    assert mean_and_stderr(np.array([[1.0, 2.0]])) == (1.5, None)
