"""transformers' own Trainer: its defaults, evaluation, collators, weight decay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ecosystem_models import moved, small, weights
from torch.nn.functional import cross_entropy, log_softmax
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from softmap.hf import SoftmapForSequenceClassification
from softmap.train.optim import weight_decay_groups
from softmap.variants import names

ROWS = [[3, 9, 4, 8], [5, 6], [7, 8, 2, 11, 3], [1, 2, 9]]
LABELLED = [{"input_ids": row, "labels": row} for row in ROWS]
TEXTS = [{"input_ids": row} for row in ROWS]


def alone(model: Any) -> float:
    """The mean loss of all predicted tokens, every text by itself."""
    with torch.no_grad():
        losses = [
            cross_entropy(
                model(torch.tensor([r])).logits[0, :-1], torch.tensor(r[1:]), reduction="sum"
            )
            for r in ROWS
        ]
    return float(sum(losses)) / sum(len(r) - 1 for r in ROWS)


def test_evaluate_and_predict(quietly: dict) -> None:
    rows = [{"input_ids": [3, 9, 4, 8], "labels": [3, 9, 4, 8]}] * 3
    model = small().eval()
    trainer = Trainer(model, TrainingArguments(**quietly), eval_dataset=rows)
    expected = model(torch.tensor([[3, 9, 4, 8]]))
    found = trainer.predict(rows)
    assert found.predictions.shape == (3, 4, 257)
    np.testing.assert_allclose(found.predictions[2], expected.logits[0].detach(), atol=1e-5)
    ids = torch.tensor([[3, 9, 4, 8]])
    loss = model(ids, labels=ids).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_checkpointing_changes_no_step(
    quietly: dict, tokenizer: Any, reentrant: bool | None
) -> None:
    """Two steps of accumulated gradients with the Trainer's defaults, with and without."""
    found = []
    for on in (False, True):
        model = small()
        options = {"gradient_checkpointing": on, "gradient_accumulation_steps": 2, "max_steps": 2}
        if on and reentrant is not None:
            options["gradient_checkpointing_kwargs"] = {"use_reentrant": reentrant}
        collator = DataCollatorForSeq2Seq(tokenizer)
        arguments = TrainingArguments(**(quietly | options))
        Trainer(model, arguments, train_dataset=LABELLED, data_collator=collator).train()
        found.append(weights(model))
    for name, parameter in found[0].items():
        torch.testing.assert_close(found[1][name], parameter, msg=name)


def test_label_smoothing_shifts_the_labels(quietly: dict) -> None:
    """(1 - e) nll + e * mean over the vocabulary, of the next token."""
    model = small().eval()
    arguments = TrainingArguments(**quietly, label_smoothing_factor=0.1)
    trainer = Trainer(model, arguments, train_dataset=LABELLED)
    ids = torch.tensor([[3, 9, 4, 8]])
    logs = log_softmax(model(ids).logits[0, :-1], -1)
    expected = -0.9 * logs[range(3), ids[0, 1:]].mean() - 0.1 * logs.mean()
    got = trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()})
    torch.testing.assert_close(got, expected)


def test_interrupted_training_goes_on(quietly: dict, tokenizer: Any, tmp_path: Path) -> None:
    """Saved after one step of two and resumed: as two steps at once."""
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "seed": 3}
    options |= {"include_num_input_tokens_seen": "all"}
    first, second = small(), small(seed=1)
    for model, resume in ((first, None), (second, str(tmp_path / "checkpoint-1"))):
        arguments = TrainingArguments(**(quietly | options))
        collator = DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(model, arguments, train_dataset=LABELLED, data_collator=collator)
        trainer.train(resume_from_checkpoint=resume)
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(two, one, msg=name)
    trainer.save_model(str(tmp_path / "out"))
    again = type(first).from_pretrained(tmp_path / "out")
    assert not moved(again, weights(second))


FLAT = {
    "positions": {},
    "lengths": {"return_position_ids": False, "return_flash_attn_kwargs": True},
    "numbers": {"return_position_ids": False, "return_seq_idx": True},
    "all": {"return_flash_attn_kwargs": True, "return_seq_idx": True},
}


@pytest.mark.parametrize("way", FLAT)
@pytest.mark.parametrize("variant", ["diff+dcmha", "transformer"])
def test_flattened_texts_do_not_see_each_other(way: str, variant: str) -> None:
    model = small(variant).eval()
    batch = DataCollatorWithFlattening(**FLAT[way])(TEXTS)
    assert model(**batch).loss.item() == pytest.approx(alone(model), rel=1e-5)


def test_padding_collators(tokenizer: Any) -> None:
    model = small().eval()
    batch = DataCollatorForSeq2Seq(tokenizer)(LABELLED)
    assert model(**batch).loss.item() == pytest.approx(alone(model), rel=1e-5)
    masked = DataCollatorForLanguageModeling(tokenizer, mlm=False)(TEXTS)
    assert model(**masked).loss.item() == pytest.approx(alone(model), rel=1e-5)
    classifier = small(cls=SoftmapForSequenceClassification, num_labels=3).eval()
    labelled = [row | {"labels": 1} for row in TEXTS]
    got = classifier(**DataCollatorWithPadding(tokenizer)(labelled))
    each = torch.cat([classifier(torch.tensor([row])).logits for row in ROWS])
    torch.testing.assert_close(got.logits, each)
    torch.testing.assert_close(got.loss, cross_entropy(each, torch.ones(4, dtype=torch.long)))


@pytest.mark.parametrize("variant", names())
def test_weight_decay_is_ours(quietly: dict, variant: str) -> None:
    model = small(variant, hidden_size=16)
    trainer = Trainer(model, TrainingArguments(**quietly, weight_decay=0.1))
    decayed, _ = weight_decay_groups(model)
    assert set(trainer.get_decay_parameter_names(model)) & set(weights(model)) == set(decayed)


def test_other_models_keep_their_weight_decay(quietly: dict) -> None:
    model, other = small(), torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Embedding(2, 2))
    trainer = Trainer(model, TrainingArguments(**quietly))
    assert trainer.get_decay_parameter_names(other) == ["0.weight", "1.weight"]
