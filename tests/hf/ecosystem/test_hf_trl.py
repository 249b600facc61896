"""TRL's trainers, one step each, with their defaults unless a line says otherwise.

Slow: importing TRL takes as long as all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from ecosystem_models import moved, small, weights  # noqa: E402

from softmap.hf import SoftmapForCausalLM, SoftmapForSequenceClassification  # noqa: E402

TEXTS = ["the cat sat", "on", "the mat and slept", "well", "a dog", "barked at it", "no", "yes"]
CHATS = [
    [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]
    for text in TEXTS
]
WAYS: dict[str, tuple[dict, dict]] = {
    "defaults": ({}, {"text": TEXTS}),
    "nll": ({"loss_type": "nll"}, {"text": TEXTS}),
    "packing": ({"packing": True, "max_length": 16}, {"text": TEXTS}),
    "padding_free": ({"padding_free": True, "max_length": None}, {"text": TEXTS}),
    "no_checkpointing": ({"gradient_checkpointing": False}, {"text": TEXTS}),
    "completion": ({}, {"prompt": TEXTS, "completion": [t[::-1] for t in TEXTS]}),
    "assistant": ({"assistant_only_loss": True}, {"messages": CHATS}),
}


@pytest.mark.parametrize("way", WAYS)
def test_sft(way: str, quietly: dict, tokenizer: Any) -> None:
    options, columns = WAYS[way]
    model = small()
    before = weights(model)
    arguments = trl.SFTConfig(**(quietly | {"bf16": False, "max_length": 32} | options))
    data = datasets.Dataset.from_dict(columns)
    trainer = trl.SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
    assert 3 < trainer.train().training_loss < 12
    assert moved(model, before) == set(before)


def test_packed_sft_has_the_gradient_of_the_texts_alone(quietly: dict, tokenizer: Any) -> None:
    """Nothing is seen across texts: one packed row, and the same texts in a padded batch."""
    losses = {}
    for packing in (True, False):
        options = {"packing": packing, "max_length": 64, "bf16": False, "loss_type": "nll"}
        options |= {"per_device_train_batch_size": 8, "max_grad_norm": 0.0}
        arguments = trl.SFTConfig(**(quietly | options))
        model, data = small(), datasets.Dataset.from_dict({"text": TEXTS})
        trainer = trl.SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        losses[packing] = trainer.train().training_loss
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)


def test_dpo(quietly: dict, tokenizer: Any, tmp_path: Path) -> None:
    """The reference model is read again from the folder."""
    small().save_pretrained(tmp_path / "model")
    model = SoftmapForCausalLM.from_pretrained(tmp_path / "model")
    before = weights(model)
    columns = {"prompt": TEXTS, "chosen": TEXTS[::-1], "rejected": [t[::-1] for t in TEXTS]}
    trainer = trl.DPOTrainer(
        model, args=trl.DPOConfig(**quietly, bf16=False), processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict(columns),
    )  # fmt: skip
    # The policy is its own reference at the first step: log sigmoid of 0.
    assert trainer.train().training_loss == pytest.approx(torch.log(torch.tensor(2.0)).item())
    assert moved(model, before)


def test_reward(quietly: dict, tokenizer: Any) -> None:
    model = small(cls=SoftmapForSequenceClassification, num_labels=1)
    before = weights(model)
    columns = {"chosen": TEXTS, "rejected": [t + "!" for t in TEXTS]}
    trainer = trl.RewardTrainer(
        model, args=trl.RewardConfig(**quietly, bf16=False), processing_class=tokenizer,
        train_dataset=datasets.Dataset.from_dict(columns),
    )  # fmt: skip
    assert 0 < trainer.train().training_loss < 5
    assert moved(model, before) == set(before)
