"""Peaks: chosen on windows that are never reported, kept, and used by the next comparison."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lab_tiny
import numpy as np
import pytest

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.lab import grid, tuning_points
from softmap.lab import tune as tunes
from softmap.lab.compare import Request
from softmap.lab.peaks import find_peaks
from softmap.lab.plan import PlannedModel, make_plan
from softmap.lab.recipe import Recipe
from softmap.lab.tune import tune, tuning_windows
from softmap.train import NonFiniteLoss


def test_tuning_never_sees_a_reported_window(tiny: Recipe) -> None:
    heldout = np.arange(33 * 32 + 1)  # 33 windows of 32, 8 of them reported
    mine = {tuple(window) for window in tuning_windows(heldout, tiny)}
    reported = {tuple(window) for window in order.windows(heldout, 32, 8)}
    assert len(mine) == 4 and not mine & reported
    with pytest.raises(SoftmapError, match="held-out windows beside the 8"):
        tuning_windows(heldout[: 8 * 32 + 1], tiny)


def test_the_lowest_mean_wins_and_divergence_never() -> None:
    assert grid.chosen({0.001: [2.0, 2.0], 0.01: [0.9, 1.3], 0.1: [0.5, None]}) == 0.01
    assert grid.best({0.001: [2.0, None], 0.01: [None, None], 0.1: [1.0, None]}) == 0.1
    assert grid.chosen({0.1: [None], 0.2: [None]}) is None
    assert grid.wider({0.1: [None], 0.2: [None]}, [0.1, 0.2]) is None


@pytest.mark.parametrize(("loss", "peak"), [(1.025, 0.01), (1.035, 0.1)])
def test_of_peaks_that_the_runs_cannot_tell_apart_the_lowest_wins(loss: float, peak: float) -> None:
    assert grid.chosen({0.001: [1.2], 0.01: [loss], 0.1: [1.0]}) == peak
    # Two runs tell apart what one does not: 0.03 / sqrt(2) is 0.021.
    near = 1.0 + (loss - 1.0) / np.sqrt(2)
    assert grid.chosen({0.001: [1.2] * 2, 0.01: [near] * 2, 0.1: [0.9, 1.1]}) == peak


def test_the_grid_goes_on_where_its_edge_is_best_twice_at_most() -> None:
    given, tried = [1.0, 2.0, 6.0], {1.0: [3.0], 2.0: [2.0], 6.0: [1.0]}
    for peak in (18.0, 54.0):  # times 3, as the last step was
        assert grid.wider(tried, given) == peak
        tried[peak] = [1.0 / peak]
    assert grid.wider(tried, given) is None and grid.at_edge(tried)
    tried[1.0] = [0.001]
    assert grid.wider(tried, given) == 0.5
    assert grid.wider({1.0: [3.0], 2.0: [2.0], 6.0: [2.5]}, given) is None
    assert grid.wider({1.0: [3.0]}, [1.0]) is None


class Bowl:
    """Stands in for the training of a point: the loss is a bowl over the logarithm of the peak.

    bottoms: the best peak of each variant; a peak above ``most`` diverges, with the second seed.
    """

    def __init__(self, bottoms: dict[str, float], most: float = 1.0) -> None:
        self.bottoms, self.most = bottoms, most
        self.trained: list[tuple[str, float, int]] = []

    def fit(self, model: object, planned: PlannedModel, *rest: Any, **hooks: object) -> None:
        self.trained.append((planned.spec, planned.peak_lr, seed := rest[2]))
        away = abs(np.log2(planned.peak_lr / self.bottoms[planned.spec]))
        self.loss = 3.0 + float(away) + (seed - 1000) / 100
        if planned.peak_lr > self.most and seed > 1000:
            raise NonFiniteLoss(planned.label, 1, float("nan"), 1.0, "none")


@pytest.fixture
def bowl(monkeypatch: pytest.MonkeyPatch) -> Bowl:
    bowl = Bowl({"transformer++": 2e-3, "diff": 16e-3})
    monkeypatch.setattr(tuning_points, "fit", bowl.fit)
    monkeypatch.setattr(tuning_points, "token_losses", lambda *_, **__: np.full((2, 4), bowl.loss))
    return bowl


def test_a_tuning_writes_peaks_that_the_recipe_then_uses(
    tiny: Recipe, tmp_path: Path, bowl: Bowl
) -> None:
    tuning = dataclasses.replace(tiny.tuning, grid=[1e-3, 2e-3, 4e-3])
    recipe, folder = dataclasses.replace(tiny, tuning=tuning), tmp_path / "runs" / "tiny"
    display = lab_tiny.Notes()
    path = tune(recipe, Request(tmp_path / "runs", "softmap compare tiny.yaml --tune"), display)
    assert path == folder / "peaks.json"
    same = [(name, p, s) for name in bowl.bottoms for p in tuning.grid for s in (1000, 1001)]
    more = [("diff", p, s) for p in (8e-3, 16e-3) for s in (1000, 1001)]
    assert bowl.trained == same + more
    assert [text for text in display.said if "edge" in text] == [
        "diff: the best peak is at the edge of its grid: trying 0.008",
        "diff: the best peak is at the edge of its grid: trying 0.016",
        "warning: diff: the best peak, 0.016, is at the edge of the 5 tried ones: move tuning.grid",
    ]
    found = json.loads(path.read_text())
    assert {name: point["peak_lr"] for name, point in found["peaks"].items()} == bowl.bottoms
    assert found["peaks"]["transformer++"]["losses"]["0.001"] == pytest.approx([4.0, 4.01])
    assert found["seeds"] == [1000, 1001] and found["diverged"] == {}
    assert found["command"].endswith("--tune") and found["device"]

    tune(recipe, Request(tmp_path / "runs"))
    assert bowl.trained == same + more  # kept points are not trained again
    plan = make_plan(recipe, 257, find_peaks(recipe, folder))
    sources = {c.label: (c.peak_lr, c.peak_source) for c in plan.models}
    assert sources == {"transformer++": (2e-3, "tuned"), "diff": (16e-3, "tuned")}


def test_a_point_that_diverges_is_a_point(tiny: Recipe, tmp_path: Path, bowl: Bowl) -> None:
    bowl.most = 5e-3  # the grid's upper half
    found = json.loads(tune(tiny, Request(tmp_path / "runs")).read_text())["peaks"]["diff"]
    assert found["losses"]["0.01"][1] is None and found["losses"]["0.01"][0] < 4
    assert found["peak_lr"] == 1e-3


def test_a_variant_that_always_diverges_does_not_end_the_others(
    tiny: Recipe, tmp_path: Path, bowl: Bowl, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bowl.fit

    def fit(model: object, planned: PlannedModel, *rest: Any, **hooks: object) -> None:
        if planned.spec == "diff":
            raise NonFiniteLoss(planned.label, 1, float("nan"), 1.0, "none")
        real(model, planned, *rest, **hooks)

    monkeypatch.setattr(tuning_points, "fit", fit)
    display = lab_tiny.Notes()
    found = json.loads(tune(tiny, Request(tmp_path / "runs"), display).read_text())
    assert list(found["peaks"]) == ["transformer++"]
    assert found["diverged"] == {"diff": {"0.001": [None, None], "0.01": [None, None]}}
    (text,) = (text for text in display.said if "no peak" in text)
    assert text.startswith("diff: no peak, since training diverged at all from 0.001 to 0.01")
    plan = make_plan(tiny, 257, find_peaks(tiny, tmp_path / "runs" / "tiny"))
    assert [c.peak_source for c in plan.models] == ["tuned", "recipe"]


def test_points_are_short_and_fully_decayed(tiny: Recipe) -> None:
    short = tunes._shortened(tiny)
    assert short.training.steps == 6 and short.training.budgets == [1.0]
    assert short.seeds == [1000, 1001] and not set(short.seeds) & set(tiny.seeds)
    # The warm-up is as long as in the comparison: 0.1 of 12 steps, 0.2 of 6.
    assert short.training.warmup == pytest.approx(0.2)


def test_own_peaks_do_not_hide_the_grid(tiny: Recipe, tmp_path: Path, bowl: Bowl) -> None:
    entry = dataclasses.replace(tiny.variants[0], peak_lr=9.0)
    recipe = dataclasses.replace(tiny, variants=[entry])
    path = tune(recipe, Request(Path(tmp_path) / "runs"))
    assert path == tmp_path / "runs" / "tiny" / "peaks.json"
    assert json.loads(path.read_text())["peaks"]["transformer++"]["peak_lr"] == 1e-3


def test_peaks_that_the_recipe_gives_are_not_tuned(tiny: Recipe, tmp_path: Path) -> None:
    recipe = dataclasses.replace(tiny, peaks={"diff": 1e-3})
    with pytest.raises(SoftmapError, match="--tune: expected a recipe without peaks"):
        tune(recipe, Request(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
