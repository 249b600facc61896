"""Models whose answers are known by construction, and things to ask them about."""

from __future__ import annotations

import random
import string
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmap.data.builders import bytes_tokenizer
from softmap.evals.question import Row, Setting, Suite
from softmap.evals.subject import Subject
from softmap.evals.summary import cells
from softmap.evals.text import Text
from softmap.hf import SoftmapConfig, SoftmapForCausalLM

SURE = 30.0  #: logit of a token that a model is sure of


class Uniform(nn.Module):
    """Every token is as likely as any other."""

    def __init__(self, vocabulary: int = 257) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.weight.expand(*input_ids.shape, -1).clone())


class Copier(Uniform):
    """Says what followed the earlier place whose last tokens are most like its own; the latest of
    several. reach: how many tokens it looks back."""

    def __init__(self, vocabulary: int = 257, reach: int | None = None) -> None:
        super().__init__(vocabulary)
        self.reach = reach
        self._known: list[int] = []  # a sequence that was read, and what followed each place
        self._said: list[int | None] = []
        self._alike = np.zeros(0, int)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        logits = super().forward(input_ids).logits
        for row, ids in enumerate(input_ids.tolist()):
            for place, token in enumerate(self._answers(ids)):
                if token is not None:
                    logits[row, place, token] = SURE
        return SimpleNamespace(logits=logits)

    def _answers(self, ids: list[int]) -> list[int | None]:
        if ids[: len(self._known)] != self._known:
            self._known, self._said, self._alike = [], [], np.zeros(0, int)
        whole = np.array(ids)
        for i in range(len(self._known), len(ids)):
            before = np.append(0, self._alike)  # length of what is alike up to j and up to i
            self._alike = np.where(whole[: i + 1] == whole[i], before[: i + 1] + 1, 0)
            score = self._alike[:i].copy()
            if self.reach is not None:
                score[: max(0, i + 1 - self.reach)] = 0
            best = i - 1 - int(score[::-1].argmax()) if i else 0
            self._said.append(ids[best + 1] if i and score[best] else None)
        self._known = ids
        return self._said


class Fixed(Uniform):
    """Says the next token of ``answer`` after each prompt that ends with ``ending``."""

    def __init__(self, ending: list[int], answer: list[int], vocabulary: int = 257) -> None:
        super().__init__(vocabulary)
        self.ending, self.answer = ending, answer

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        logits = super().forward(input_ids).logits
        whole = [*self.ending, *self.answer]
        for row, ids in enumerate(input_ids.tolist()):
            for i in range(len(ids)):
                for n in range(len(self.ending), len(whole)):
                    if i + 1 >= n and ids[i + 1 - n : i + 1] == whole[:n]:
                        logits[row, i, whole[n]] = SURE
        return SimpleNamespace(logits=logits)


def random_text(size: int = 20_000, seed: int = 0) -> Text:
    """Letters without any order."""
    chooser = random.Random(seed)
    return Text("random", ("".join(chooser.choices(string.ascii_lowercase, k=size)),))


def subject(model: Any, context: int = 64, *, text: bool = True) -> Subject:
    """Bytes, where it reads text."""
    size = model.config.vocab_size if hasattr(model, "config") else len(model.weight)
    tokenizer = bytes_tokenizer() if text else None
    return Subject(model, tokenizer, name="it", context=context, vocabulary=size)


def tiny(variant: str = "transformer++", *, vocabulary: int = 257, layers: int = 2) -> Any:
    """A softmap model at random."""
    torch.manual_seed(0)
    config = SoftmapConfig(
        variant=variant, vocab_size=vocabulary, hidden_size=32, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = SoftmapForCausalLM(config).eval()
    with torch.no_grad():  # out of the start, where each block is the identity
        for name, p in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                p.normal_(std=0.2)
    return model


def asked(suite: Suite, who: Subject, **setting: Any) -> dict[Any, float]:
    """The means of a suite's answers: by measure, and by (measure, condition, ...)."""
    given = {"context": who.context, "vocabulary": who.vocabulary, **setting}
    rows = list(suite.rows(who, Setting(**given)))
    return means(suite, rows)


def means(suite: Suite, rows: list[Row]) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for cell in cells(suite, rows).values():
        key = cell.metric if cell.at is None else (cell.metric, *cell.at.values())
        found[key] = cell.mean
    return found
