"""A training that diverges is a result: the comparison goes on, and it is not trained again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from softmap.errors import SoftmapError
from softmap.lab import session as sessions
from softmap.lab import trial
from softmap.lab.compare import Request, compare
from softmap.lab.generate import model_folder
from softmap.lab.recipe import Entry, Recipe
from softmap.report.load import load

PEAK = 1e30  # the first update leaves no finite weight


def diverging(tiny: Recipe) -> Recipe:
    training = dataclasses.replace(tiny.training, clip=None)
    variants = [Entry("transformer++"), Entry("diff", peak_lr=PEAK)]
    return dataclasses.replace(tiny, training=training, variants=variants)


def test_the_others_go_on_and_nothing_is_trained_again(
    tiny: Recipe, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = diverging(tiny)
    recipe = dataclasses.replace(recipe, variants=recipe.variants[::-1], control="transformer++")
    run = compare(recipe, Request(tmp_path / "runs")).parent
    folder = run / "variants/diff/seed0"
    found = json.loads((folder / "result.json").read_text())
    assert 1 <= found["diverged"]["step"] < 12 and "nan" in found["diverged"]["reason"]
    assert found["budgets"] == [] and found["peak_lr"] == PEAK and "model" not in found
    assert not (folder / "model").exists() and not (folder / "checkpoints").exists()
    assert (run / "variants/transformerpp/seed0/result.json").exists()  # came after it
    monkeypatch.setattr(sessions, "run_trial", None)
    compare(recipe, Request(tmp_path / "runs"))


def test_a_held_out_loss_that_is_not_finite_is_one_too(
    tiny: Recipe, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    infinite = np.full((8, 32), np.inf, dtype=np.float32)
    monkeypatch.setattr(trial, "token_losses", lambda *_, **__: infinite)
    run = compare(tiny, Request(tmp_path / "runs")).parent
    found = json.loads((run / "variants/diff/seed0/result.json").read_text())
    assert found["diverged"] == {"step": 3, "reason": "held-out loss inf"}


@pytest.mark.slow
def test_page_and_generate_say_so(tiny: Recipe, tmp_path: Path) -> None:
    run = compare(diverging(tiny), Request(tmp_path / "runs")).parent
    assert (run / "report.html").exists()
    assert list(load(run).trials) == ["transformer++"]
    with pytest.raises(SoftmapError, match=r"diff/seed0: expected a trained model, found a train"):
        model_folder(run, "diff")
    assert model_folder(run).exists()


def test_a_damaged_one_is_named(tiny: Recipe, tmp_path: Path, no_page: None) -> None:
    run = compare(diverging(tiny), Request(tmp_path / "runs")).parent
    path = run / "variants/diff/seed0/result.json"
    path.write_text(path.read_text().replace('"step": ', '"step": 1'))
    with pytest.raises(SoftmapError, match=r"result\.json: expected the contents as saved"):
        compare(diverging(tiny), Request(tmp_path / "runs"))
