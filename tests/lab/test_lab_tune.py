"""Peaks: chosen on windows that are never reported, kept, and used by the next comparison."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.lab import tune as tunes
from softmap.lab.compare import Request
from softmap.lab.peaks import find_peaks
from softmap.lab.plan import make_plan
from softmap.lab.recipe import Recipe
from softmap.lab.tune import best_peak, edge_warnings, tune, tuning_windows
from softmap.train import NonFiniteLoss


def test_tuning_never_sees_a_reported_window(tiny: Recipe) -> None:
    heldout = np.arange(33 * 32 + 1)  # 33 windows of 32, 8 of them reported
    mine = {tuple(window) for window in tuning_windows(heldout, tiny)}
    reported = {tuple(window) for window in order.windows(heldout, 32, 8)}
    assert len(mine) == 4 and not mine & reported
    with pytest.raises(SoftmapError, match="held-out windows beside the 8"):
        tuning_windows(heldout[: 8 * 32 + 1], tiny)


def test_the_lowest_loss_wins_and_divergence_never() -> None:
    assert best_peak("diff", {"0.001": 2.0, "0.01": 1.0, "0.1": None}) == 0.01
    with pytest.raises(SoftmapError, match="diff: the training diverged at every peak"):
        best_peak("diff", {"0.1": None})


def test_of_peaks_that_one_seed_cannot_tell_apart_the_lowest_wins() -> None:
    assert best_peak("diff", {"0.001": 1.2, "0.01": 1.04, "0.1": 1.0}) == 0.01
    assert best_peak("diff", {"0.001": 1.2, "0.01": 1.06, "0.1": 1.0}) == 0.1


def test_a_best_peak_at_the_edge_is_a_warning() -> None:
    losses = {"1.0": 3.0, "2.0": 2.0, "3.0": 4.0}
    points = {"inside": losses, "edge": {**losses, "3.0": 1.0}}
    assert [text.split(":")[1].strip() for text in edge_warnings(points, [1, 2, 3])] == ["edge"]


def test_a_tuning_writes_peaks_that_the_recipe_then_uses(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = tiny, tmp_path / "runs" / "tiny"
    trained: list[tuple[str, float]] = []
    real = tunes.fit

    def spy(model: object, candidate: tunes.Candidate, *rest: object, **hooks: object) -> None:
        trained.append((candidate.spec, candidate.peak_lr))
        real(model, candidate, *rest, **hooks)  # type: ignore[arg-type]

    monkeypatch.setattr(tunes, "fit", spy)
    path = tune(recipe, Request(tmp_path / "runs", "softmap compare tiny.yaml --tune"))
    assert path == folder / "peaks.json"
    grid = [("transformer++", 1e-3), ("transformer++", 1e-2), ("diff", 1e-3), ("diff", 1e-2)]
    assert trained == grid
    found = json.loads(path.read_text())
    for name, point in found["peaks"].items():
        assert point["peak_lr"] == best_peak(name, point["losses"]) == 1e-2
    assert found["seed"] == 1000 and found["command"].endswith("--tune") and found["device"]

    tune(recipe, Request(tmp_path / "runs"))
    assert trained == grid  # kept points are not trained again
    plan = make_plan(recipe, 257, find_peaks(recipe, folder))
    sources = {c.label: (c.peak_lr, c.peak_source) for c in plan.candidates}
    assert sources == {"transformer++": (1e-2, "tuned"), "diff": (1e-2, "tuned")}


def test_a_diverged_point_is_a_point(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(model: object, candidate: tunes.Candidate, *rest: object, **hooks: object) -> None:
        if candidate.peak_lr == 1e-2:
            raise NonFiniteLoss(candidate.label, 1, float("nan"), 1.0, "none")

    monkeypatch.setattr(tunes, "fit", diverge)
    found = json.loads(tune(tiny, Request(tmp_path / "runs")).read_text())["peaks"]["diff"]
    assert found["losses"]["0.01"] is None and found["peak_lr"] == 1e-3


def test_points_are_short_and_fully_decayed(tiny: Recipe) -> None:
    short = tunes._shortened(tiny)
    assert short.training.steps == 6 and short.training.budgets == [1.0]
    assert short.seeds == [1000] and 1000 not in tiny.seeds
    # The warm-up is as long as in the comparison: 0.1 of 12 steps, 0.2 of 6.
    assert short.training.warmup == pytest.approx(0.2)


def test_own_peaks_do_not_hide_the_grid(tiny: Recipe, tmp_path: Path) -> None:
    entry = dataclasses.replace(tiny.variants[0], peak_lr=9.0)
    recipe = dataclasses.replace(tiny, variants=[entry])
    path = tune(recipe, Request(Path(tmp_path) / "runs"))
    assert path == tmp_path / "runs" / "tiny" / "peaks.json"
    assert json.loads(path.read_text())["peaks"]["transformer++"]["peak_lr"] in tiny.tuning.grid


def test_peaks_that_the_recipe_gives_are_not_tuned(tiny: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny, peaks={"diff": 1e-3})
    with pytest.raises(SoftmapError, match="--tune: the recipe gives the peaks itself"):
        tune(recipe, Request(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
