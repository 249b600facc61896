"""position_ids may repeat what the mask says, and nothing else."""

from __future__ import annotations

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM


def model() -> SoftmapForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11}
    return SoftmapForCausalLM(SoftmapConfig(**shape)).eval()


def test_the_masks_own_positions_change_nothing() -> None:
    ids, mask = torch.tensor([[0, 0, 3, 4]]), torch.tensor([[0, 0, 1, 1]])
    plain = model()(ids, attention_mask=mask).logits
    given = model()(ids, attention_mask=mask, position_ids=torch.tensor([[1, 1, 0, 1]])).logits
    assert torch.equal(plain, given)


def test_positions_that_start_again_are_refused() -> None:
    with pytest.raises(SoftmapError, match="packed documents are not supported"):
        model()(torch.tensor([[1, 2, 3, 4]]), position_ids=torch.tensor([[0, 1, 0, 1]]))
