"""Pipelines, Accelerate's hooks, torch.compile and copies of a model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from ecosystem_models import small
from transformers import AutoModelForCausalLM, pipeline

from softmap.hf import SoftmapForSequenceClassification, SoftmapModel

IDS = torch.tensor([[3, 9, 4, 5, 6, 7], [8, 2, 11, 5, 9, 1]])


def test_text_in_batches_is_as_alone(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"
    speak = pipeline("text-generation", model=small(), tokenizer=tokenizer)
    texts, options = ["a cat sat", "a", "the dogs"], {"max_new_tokens": 6, "do_sample": False}
    together = speak(texts, batch_size=3, **options)
    assert together == [speak(text, **options) for text in texts]


def test_chats_in_batches_are_as_alone(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"
    model = small().eval()
    chats = [[{"role": "user", "content": text}] for text in ("hi", "a longer one")]
    options = {"return_tensors": "pt", "return_dict": True, "padding": True}
    batch = tokenizer.apply_chat_template(chats, **options)
    together = model.generate(**batch, max_new_tokens=5, do_sample=False)[:, -5:]
    for row, chat in zip(together, chats, strict=True):
        alone = tokenizer.apply_chat_template([chat], **options)
        got = model.generate(**alone, max_new_tokens=5, do_sample=False)[0, -5:]
        assert torch.equal(row, got)


def test_other_pipelines(tokenizer: Any) -> None:
    classifier = small(cls=SoftmapForSequenceClassification, num_labels=3)
    (found,) = pipeline("text-classification", model=classifier, tokenizer=tokenizer)("a cat")
    assert found["label"] in {"LABEL_0", "LABEL_1", "LABEL_2"}
    features = pipeline("feature-extraction", model=small(cls=SoftmapModel), tokenizer=tokenizer)
    assert torch.tensor(features("a cat")).shape == (1, 5, 32)


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "compiled": compiled,
    "hooked": lambda m: dispatch_model(copy.deepcopy(m), {"": "cpu"}, force_hooks=True),
}


@pytest.mark.parametrize(
    "way", [pytest.param(w, marks=pytest.mark.slow) if w == "compiled" else w for w in WAYS]
)
def test_it_says_the_same(way: str) -> None:
    """Maps and hidden states too: hooks hand copies of lists on."""
    model = small().eval()
    asked = {"output_attentions": True, "output_hidden_states": True}
    expected, got = model(IDS, **asked), WAYS[way](model)(IDS, **asked)
    torch.testing.assert_close(got.logits, expected.logits)
    assert len(got.attentions) == 1 and len(got.hidden_states) == 2
    torch.testing.assert_close(got.attentions[0], expected.attentions[0])


def test_a_device_map(tmp_path: Path) -> None:
    model = small().eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"})
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
