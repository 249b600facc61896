"""A bigram language, asked of models that know it and of one that knows nothing."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import known
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softmap.evals import points
from softmap.evals.subject import Subject
from softmap.evals.suites.bigram import (
    SUCCESSORS,
    VOCABULARY,
    Bigram,
    BigramSuite,
    classes,
    language,
)
from softmap.evals.tasks import IGNORED

FEW = BigramSuite(sequences=4, curved=2)


class Table(nn.Module):
    """A table of logits by token: the language itself with ``sure`` large."""

    def __init__(self, sure: float = 30.0) -> None:
        super().__init__()
        table = torch.zeros(VOCABULARY, VOCABULARY)
        for token, following in enumerate(language()):
            table[token, torch.from_numpy(following)] = sure
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def asked(model: nn.Module, folder: Path | None = None) -> dict[object, float]:
    who = Subject(model, name="it", context=128, vocabulary=VOCABULARY, folder=folder)
    return known.asked(FEW, who)


def test_a_perfect_model_reaches_the_entropy_of_each_class() -> None:
    found = asked(Table())
    for count in SUCCESSORS:
        assert found["loss", count] == pytest.approx(math.log(count), abs=1e-5)
        assert found["excess", count] == pytest.approx(0, abs=1e-5)


def test_a_uniform_model_has_log_v_in_every_class() -> None:
    found = asked(Table(sure=0.0))
    for count in SUCCESSORS:
        assert found["excess", count] == pytest.approx(math.log(VOCABULARY / count), abs=1e-5)


def test_curvature_is_that_of_the_softmax() -> None:
    """Of logits z the Hessian of a token's loss is diag(p) - p p^T: for an even choice of k its
    largest eigenvalue is 1/k; that of the class's mean loss is the largest share of a token of the
    class times that."""
    found = asked(Table())
    ids, _ = Bigram().batch(0, 10**6, 4)
    for count in SUCCESSORS[1:]:
        before = ids[:2, :-1][classes()[ids[:2, :-1]] == count]
        share = np.bincount(before).max() / len(before)
        assert found["curvature", count] == pytest.approx(share / count, rel=0.02)


def test_walks_are_of_the_language_and_say_what_is_asked() -> None:
    ids, labels = Bigram(4).batch(1, 2, 3)
    for row, wanted in zip(ids, labels, strict=True):
        for n in range(1, len(row)):
            assert row[n] in language()[row[n - 1]]
            assert (wanted[n] != IGNORED) == (classes()[row[n - 1]] == 4)
    assert [len(found) for found in language()] == classes().tolist()
    assert (Bigram().batch(0, 0, 1)[1][0, 1:] != IGNORED).all()


def test_what_a_decay_takes_is_read_from_the_kept_points(tmp_path: Path) -> None:
    for budget, (before, after) in enumerate([(0.0, 1.0), (2.0, 30.0)]):
        points.keep(Table(before), tmp_path / points.FOLDER, budget, points.BEFORE)
        points.keep(Table(after), tmp_path / points.FOLDER, budget, points.AFTER)
    model = Table()
    found = asked(model, tmp_path / "model")
    for count in SUCCESSORS:
        excess = math.log(1 + (VOCABULARY - count) / (count * math.exp(2)))
        assert found["through", "2 before", count] == pytest.approx(excess, abs=1e-4)
        assert found["fall", count] == pytest.approx(excess, abs=1e-4)
        assert found["through", "1 before", count] == pytest.approx(
            math.log(VOCABULARY / count), abs=1e-4
        )
    assert torch.equal(model.table, Table().table)
