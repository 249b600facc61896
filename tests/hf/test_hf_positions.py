"""position_ids: they repeat what the mask says, or say where packed documents begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening

from softmap.errors import SoftmapError

TEXTS = [[3, 9, 4], [5, 6], [7, 8, 2, 11]]


def alone(model: Any) -> torch.Tensor:
    return torch.cat([model(torch.tensor([text])).logits[0] for text in TEXTS])


def test_the_masks_own_positions_change_nothing(make: Callable[..., Any]) -> None:
    ids, mask, model = torch.tensor([[0, 0, 3, 4]]), torch.tensor([[0, 0, 1, 1]]), make()
    plain = model(ids, attention_mask=mask).logits
    given = model(ids, attention_mask=mask, position_ids=torch.tensor([[1, 1, 0, 1]])).logits
    assert torch.equal(plain, given)


@pytest.mark.parametrize("variant", ["transformer++", "transformer", "diff+dape", "sas"])
def test_packed_texts_are_the_texts_alone(make: Callable[..., Any], variant: str) -> None:
    """As transformers' own collator packs them: the loss too, which it tells where texts begin."""
    model = make(variant)
    batch = DataCollatorWithFlattening()([{"input_ids": text} for text in TEXTS])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    got = model(**batch, use_cache=False)
    torch.testing.assert_close(got.logits[0], alone(model))
    parts = [model(torch.tensor([t]), labels=torch.tensor([t])).loss * (len(t) - 1) for t in TEXTS]
    torch.testing.assert_close(got.loss, sum(parts) / 6)


def test_documents_say_the_same(make: Callable[..., Any]) -> None:
    model, ids = make(), torch.tensor([[3, 9, 4, 5, 6, 7, 8, 2, 11]])
    documents = torch.tensor([[1, 1, 1, 2, 2, 3, 3, 3, 3]])
    got = model(ids, documents=documents)
    torch.testing.assert_close(got.logits[0], alone(model))
    assert got.past_key_values is None
    with pytest.raises(SoftmapError, match="a cache holds one document a sequence"):
        model(ids, documents=documents, use_cache=True)


@pytest.mark.parametrize(
    "given",
    [
        {"position_ids": torch.tensor([[0, 1, 3, 4]])},
        {"position_ids": torch.tensor([[1, 2, 3, 4]])},
        {"position_ids": torch.tensor([[0, 1, 0, 1]]), "attention_mask": torch.eye(4)[:1] == 0},
        {"position_ids": torch.tensor([[0, 1, 0, 1]]), "documents": torch.tensor([[0, 0, 0, 1]])},
    ],
)
def test_other_positions_are_refused(make: Callable[..., Any], given: dict) -> None:
    with pytest.raises(SoftmapError, match=r"position_ids must count the real tokens .* others"):
        make()(torch.tensor([[1, 2, 3, 4]]), **given)
