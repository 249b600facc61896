"""Stein's two stages from end to end, with invented runs, and what they promise, simulated."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import lab_tiny
import numpy as np
import pytest
from lab_invented import Invented, normal

from softmap import report
from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab import session as sessions
from softmap.lab.compare import compare
from softmap.lab.interrupts import Interrupted
from softmap.lab.recipe import Entry, Recipe
from softmap.lab.request import Request
from softmap.lab.resolve import runs_needed
from softmap.report.answers import Comparison

H = 0.03
VARIANTS = ("transformer++", "diff", "gated")


@pytest.fixture
def three(tiny: Recipe, no_page: None) -> Recipe:
    """Three variants, three seeds in the first stage, four of the control."""
    variants = [Entry(name) for name in VARIANTS]
    return dataclasses.replace(tiny, variants=variants, seeds=[0, 1, 2], control_seeds=[3])


def run(
    recipe: Recipe, out: Path, monkeypatch: pytest.MonkeyPatch, work: Invented, **asked: Any
) -> lab_tiny.Notes:
    monkeypatch.setattr(sessions, "run_trial", work)
    display = lab_tiny.Notes()
    compare(recipe, Request(out, **({"resolve": H} | asked)), display)
    return display


def widths(run: Path) -> list[float]:
    found = [row["difference"] for row in report.summary(run)["variants"] if row["difference"]]
    return [(pair["high"] - pair["low"]) / 2 for pair in found]


def test_seeds_are_added_until_no_interval_is_wider(
    three: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Invented()
    said = run(three, tmp_path, monkeypatch, work).said
    folder = tmp_path / "tiny"
    info, found = json.loads((folder / "run.json").read_text()), report.summary(folder)
    first = {"transformer++": [0, 1, 2, 3], "diff": [0, 1, 2], "gated": [0, 1, 2]}
    assert info["resolve"] == {"half_width": H, "first_seeds": first}
    # All once, what only some have more of, and the rest of all, so that workers end together.
    assert work.trained[:4] == [*((label, 0) for label in VARIANTS), ("transformer++", 1)]
    later = [[("transformer++", n + 1), ("diff", n), ("gated", n)] for n in (1, 2)]
    assert work.trained[4:10] == later[0] + later[1]
    # The spread by hand, of the first stage alone, and so its degrees of freedom.
    losses = {label: [normal(label, seed) for seed in seeds] for label, seeds in first.items()}
    squares = sum(np.var(y) * len(y) for y in losses.values())
    assert found["statistics"]["pooled_df"] == 7
    assert found["statistics"]["pooled_sd"] == pytest.approx(np.sqrt(squares / 7), rel=1e-4)
    runs = Counter(label for label, _ in work.trained)
    assert runs["diff"] == runs["gated"] > 3
    assert runs["transformer++"] == int(np.ceil(np.sqrt(2) * runs["diff"]))
    assert max(widths(folder)) <= H
    assert [row["difference"]["runs"] for row in found["variants"][1:]] == [runs["diff"]] * 2
    fewer = Comparison(losses, "transformer++")
    n = runs["diff"] - 1
    assert max(fewer.half_width(v, n, int(np.ceil(np.sqrt(2) * n))) for v in VARIANTS[1:]) > H
    assert found["missing"] == []
    assert any(text.startswith("first stage: 3 runs a variant (4 of the control)") for text in said)
    more = sum(runs.values()) - 10
    assert any(text.startswith("second stage:") and f"{more} more" in text for text in said)
    assert any(text.startswith("resolved:") for text in said)
    again = Invented()
    run(three, tmp_path, monkeypatch, again)
    assert again.trained == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 10, 13])
def test_it_goes_on_in_either_stage(
    three: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    whole = Invented()
    run(three, tmp_path / "a", monkeypatch, whole)
    work = Invented(stop=(at, Interrupted(signal.SIGINT)))
    with pytest.raises(Interrupted):
        run(three, tmp_path / "b", monkeypatch, work)
    work.stop = None
    if at == 13:  # what was declared goes on without being asked for again
        monkeypatch.setattr(sessions, "run_trial", work)
        monkeypatch.chdir(tmp_path)
        assert main(["compare", "b/tiny"]) == 0
    else:
        run(three, tmp_path / "b", monkeypatch, work)
    assert Counter(work.trained) == Counter(whole.trained)
    infos = [json.loads((tmp_path / x / "tiny/run.json").read_text()) for x in "ab"]
    for key in ("resolve", "seeds_by_variant"):
        assert infos[0][key] == infos[1][key]


@pytest.mark.slow
def test_runs_that_diverge_are_replaced(
    three: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second stage; the variant that never lives is left out."""

    def loss(label: str, seed: int) -> float | None:
        return None if label == "gated" or (label, seed) == ("diff", 4) else normal(label, seed)

    work = Invented(loss)
    run(three, tmp_path, monkeypatch, work)
    found = report.summary(tmp_path / "tiny")
    assert found["lost"] == {"gated": 3} and max(widths(tmp_path / "tiny")) <= H
    (row,) = (row for row in found["variants"] if row["variant"] == "diff")
    assert len(row["diverged"]) == 1 and len(row["seeds"]) > 4
    with pytest.raises(SoftmapError, match="a variant, found that all of the first stage diverged"):
        run(
            dataclasses.replace(three, variants=[Entry("transformer++"), Entry("gated")]),
            tmp_path / "other", monkeypatch, work,
        )  # fmt: skip


@pytest.mark.slow
def test_too_many_seeds_are_said_and_not_trained(
    three: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Invented()
    with pytest.raises(SoftmapError, match=r"--resolve 0.01 needs \d+ runs a variant \(.*--at-m"):
        run(three, tmp_path, monkeypatch, work, resolve=0.01, at_most=60)
    assert len(work.trained) == 10
    run(three, tmp_path, monkeypatch, work)  # a wider one goes on from the same first stage
    assert len(work.trained) > 10


@pytest.mark.slow
def test_what_was_there_before_is_one_family(
    three: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Invented()
    run(three, tmp_path, monkeypatch, work, resolve=None)
    two = dataclasses.replace(three, variants=three.variants[:2])
    with pytest.raises(SoftmapError, match=r"also has other variants \(gated\): softmap compare"):
        run(two, tmp_path, monkeypatch, work)
    assert len(work.trained) == 10
    run(three, tmp_path, monkeypatch, work)
    assert max(widths(tmp_path / "tiny")) <= H


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--resolve", "0.02"],
            "--resolve: expected at least 2 seeds of each variant",
        ),
        (["--resolve", "0", "--seeds", "3"], "--resolve: expected a number above 0"),
        (["--resolve", "-1", "--seeds", "3"], "--resolve: expected a number above 0"),
        (["--resolve", "nan", "--seeds", "3"], "--resolve: expected a number above 0"),
        (["--resolve", "inf", "--seeds", "3"], "--resolve: expected a number above 0"),
        (["--resolve", "0.1", "--seeds", "3", "--at-most", "1"], "at-most: expected 2 to 1000"),
        (["--at-most", "9"], "--at-most bounds --resolve, expected both"),
        (["--resolve", "0.1", "--time", "3m"], "--resolve and --time are both given"),
        (
            ["--resolve", "0.1", "--seeds", "3", "--variants", "transformer++"],
            "--resolve: expected a variant beside the control, found none",
        ),
    ],
)
def test_what_cannot_be_resolved_is_one_line(
    flags: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab_tiny.write_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "tiny.yaml", *flags]) == 2
    found = capsys.readouterr().err
    assert says in found and len(found.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("spreads", [(0.03, 0.03, 0.03), (0.03, 0.036, 0.02)])
def test_all_intervals_hold_together_as_often_as_promised(spreads: tuple[float, ...]) -> None:
    """No variant differs: every interval is as narrow as asked, and 95 % of families hold 0."""
    random, inside, h = np.random.default_rng(4), 0, 0.04
    for _ in range(2000):
        sizes = {"control": 4, "a": 3, "b": 3}
        first = {
            label: list(random.normal(0, sd, n))
            for (label, n), sd in zip(sizes.items(), spreads, strict=True)
        }
        stage = Comparison(first, "control")
        total = runs_needed(stage, h, sizes)
        assert total is not None
        runs = {
            label: [*y, *random.normal(0, sd, total[label] - len(y))]
            for (label, y), sd in zip(first.items(), spreads, strict=True)
        }
        answers = Comparison(runs, "control", first=first).answers().values()
        assert all(a.high - a.mean <= h * (1 + 1e-9) for a in answers)
        inside += all(a.low <= 0 <= a.high for a in answers)
    assert inside / 2000 > 0.95 - 0.0147
