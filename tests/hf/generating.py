"""What tests of ``generate`` share: a prompt, a call of a fixed length, and left padding."""

from __future__ import annotations

from typing import Any

import torch

PROMPT = torch.tensor([[3, 4, 5, 6, 3, 4, 5, 6, 3, 4, 7]])


def generated(model: Any, ids: torch.Tensor, tokens: int = 10, **options: Any) -> torch.Tensor:
    torch.manual_seed(7)
    return model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **options)


def check_left_padding(model: Any) -> None:
    """Prompts of three lengths continue in one padded batch as each does alone."""
    rows = [PROMPT[0], PROMPT[0, :4], PROMPT[0, 2:9]]
    batch, mask = torch.zeros(3, 11, dtype=torch.long), torch.zeros(3, 11, dtype=torch.long)
    for n, row in enumerate(rows):
        batch[n, 11 - len(row) :], mask[n, 11 - len(row) :] = row, 1
    together = generated(model, batch, attention_mask=mask, do_sample=False)
    for n, row in enumerate(rows):
        alone = generated(model, row[None], do_sample=False)
        assert torch.equal(together[n, 11:], alone[0, len(row) :]), n
