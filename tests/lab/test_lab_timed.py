"""A time budget from end to end: invented runs, a clock that they move, a speed that is given."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import lab_tiny
import pytest
from lab_invented import Invented

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab import compare as compares
from softmap.lab import files, timed
from softmap.lab import session as sessions
from softmap.lab.compare import compare
from softmap.lab.costs import makespan
from softmap.lab.interrupts import Interrupted
from softmap.lab.recipe import Recipe
from softmap.lab.request import Request
from softmap.report.load import load

SPEED_TAKES = 5.0


class Clock:
    """Moved by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, no_page: None) -> Clock:
    """With speeds that say a run of diff takes 20 s, one of the control 10 s."""
    clock = Clock()
    monkeypatch.setattr(compares, "time", clock)
    monkeypatch.setattr(timed, "time", clock)

    def measure(folder: Path, plan: Any, shared: Any, *_: Any) -> None:
        if (folder / "speed.json").exists():
            return
        clock.now += SPEED_TAKES
        # 768 tokens of training and a third of 8 windows of 32 at each of three budgets
        speeds = {"transformer++": 102.4, "diff": 51.2}
        found = {
            label: {
                "tokens_per_second": {"median": s, "low": s, "high": s, "count": 7},
                "peak_memory_bytes": None,
            }
            for label, s in speeds.items()
        }
        facts = {"variants": found, "disturbed": None, "rounds": 7, "batch_tokens": 64}
        facts |= {"cores_of_others": 0.0, "load_average": [0.0], "settings": shared.settings}
        files.write_json(folder / "speed.json", facts)

    monkeypatch.setattr(compares, "measure_speed", measure)
    return clock


def spend(
    recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch, work: Invented, seconds: float
) -> lab_tiny.Notes:
    monkeypatch.setattr(sessions, "run_trial", work)
    display = lab_tiny.Notes()
    compare(recipe, Request(out, seconds=seconds), display)
    return display


def works(clock: Clock, **seconds: float) -> Invented:
    both = {"transformer++": seconds.get("control", 10.0), "diff": seconds.get("diff", 20.0)}
    return Invented(seconds=both, clock=clock)


@pytest.mark.slow
def test_the_time_is_spent_where_it_narrows_most(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    recipe, work = dataclasses.replace(tiny, seeds=[7, 8]), works(clock)
    said = spend(recipe, tmp_path, monkeypatch, work, 300).said
    runs = Counter(label for label, _ in work.trained)
    assert work.trained[:2] == [("transformer++", 7), ("diff", 7)]
    assert runs["transformer++"] > runs["diff"] >= 2  # it is cheaper
    assert 280 < clock.now <= 300
    assert any("295 left" in t or "4:55 left" in t for t in said)
    assert any("transformer++ 0:10, diff 0:20" in t for t in said)
    info = json.loads((tmp_path / "tiny/run.json").read_text())
    assert info["time"]["seconds"] == 300 and info["time"]["spent"] == pytest.approx(clock.now)
    assert info["seeds_by_variant"]["diff"] == [7, 8, *range(runs["diff"] - 2)]
    assert load(tmp_path / "tiny").missing == []
    again = works(clock)
    spend(recipe, tmp_path, monkeypatch, again, 300)  # all of it is spent
    assert again.trained == []
    spend(recipe, tmp_path, monkeypatch, again, 360)
    assert again.trained and not set(again.trained) & set(work.trained)


def test_what_all_runs_take_is_said_before_they_begin(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Two runs of 10 s and two of 20 s; of one that is finished nothing is said."""
    monkeypatch.setattr(sessions, "run_trial", works(clock))
    recipe, display = dataclasses.replace(tiny, seeds=[0, 1]), lab_tiny.Notes()
    compare(recipe, Request(tmp_path, speed=True), display)
    assert "four runs to train, about 1:00" in display.said
    recipe, display = dataclasses.replace(tiny, seeds=[0, 1, 2]), lab_tiny.Notes()
    compare(recipe, Request(tmp_path, speed=True), display)
    assert "two runs to train, about 0:30" in display.said


@pytest.mark.slow
def test_it_goes_on_with_the_time_that_is_left(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    whole = works(clock)
    spend(tiny, tmp_path / "a", monkeypatch, whole, 200)
    clock.now, work = 0.0, works(clock)
    work.stop = (4, Interrupted(signal.SIGINT))
    with pytest.raises(Interrupted):
        spend(tiny, tmp_path / "b", monkeypatch, work, 200)
    (begun,) = (
        path.parent for path in (tmp_path / "b").rglob("trial.json")
        if not path.with_name("result.json").exists()
    )  # fmt: skip
    clock.now += 1000.0  # of no matter: nothing ran
    work.stop = None
    spend(tiny, tmp_path / "b", monkeypatch, work, 200)
    assert (begun / "result.json").exists()
    assert Counter(work.trained) == Counter(whole.trained)


def test_slower_runs_than_expected_exceed_it_by_one_at_most(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    work = works(clock, control=40.0, diff=90.0)
    spend(tiny, tmp_path, monkeypatch, work, 60)
    assert work.trained == [("transformer++", 0), ("diff", 0)] and clock.now == 135
    assert json.loads((tmp_path / "tiny/run.json").read_text())["time"]["spent"] == 135
    spend(tiny, tmp_path, monkeypatch, work, 60)  # more than all of it is spent
    assert len(work.trained) == 2


def test_what_a_run_took_counts_more_than_its_speed(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    work = works(clock, control=60.0, diff=60.0)
    spend(tiny, tmp_path, monkeypatch, work, 180)
    assert len(work.trained) == 2  # a third would not fit, though by its speed it would


@pytest.mark.slow
def test_a_variant_that_always_diverges_does_not_take_it_all(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    work = works(clock)
    work.loss = lambda label, seed: None if label == "diff" else 3.0 + seed / 100
    spend(tiny, tmp_path, monkeypatch, work, 300)
    runs = Counter(label for label, _ in work.trained)
    assert runs["transformer++"] > runs["diff"] >= 1


def test_too_short_for_one_run_of_each_is_one_line(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    work = works(clock)
    with pytest.raises(SoftmapError) as error:
        spend(tiny, tmp_path, monkeypatch, work, 34)
    assert str(error.value) == (
        "--time: expected at least the 0:30 that one run of each variant takes, with 0:05 "
        "already spent, found 0:34"
    )
    assert work.trained == [] and not (tmp_path / "tiny/run.json").exists()
    assert makespan([10, 20, 30], 1) == 60 and makespan([10, 20, 30], 2) == 30


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--time", "30"], "--time: expected a time such as 90s, 30m or 1h30m, found '30'"),
        (["--time", "soon"], "found 'soon'"),
        (["--time", "0m"], "found '0m'"),
        (["--time", "-5m"], "found '-5m'"),
        (["--time", "nanm"], "found 'nanm'"),
        (["--time", "5m", "--seeds", "3"], "--time and --seeds are both given"),
        (["--time", "5m", "--seed-list", "3"], "--time and --seed-list are both given"),
    ],
)
def test_what_is_no_time_is_one_line(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "demo", *flags]) == 2
    found = capsys.readouterr().err
    assert says in found and len(found.splitlines()) == 1


def test_times_are_added_up() -> None:
    from softmap.cli import _duration

    assert [_duration("", text) for text in ("90s", "1.5m", "1h30m", "2h1s")] == [
        90, 90, 5400, 7201,
    ]  # fmt: skip
