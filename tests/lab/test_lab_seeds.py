"""Runs of each variant: how a recipe gives the control, or any other, more of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab_tiny import write_recipe

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab import recipe as recipes
from softmap.lab.plan import make_plan
from softmap.lab.seeds import further
from softmap.report.load import load


def seeds_of(run: Path) -> dict[str, Any]:
    """Seeds that a run declares, and those that are trained."""
    found: dict[str, Any] = json.loads((run / "run.json").read_text())["seeds_by_variant"]
    trained = {label: sorted(trials) for label, trials in load(run).trials.items()}
    assert {label: sorted(seeds) for label, seeds in found.items()} == trained
    return found


def test_a_recipe_counts_or_lists_them(tmp_path: Path) -> None:
    more = """
seeds: 2
control_seeds: 4
variants: [transformer++, {variant: dape, bias: fire, seeds: [7, 1]}, diff]
"""
    text = write_recipe(tmp_path).read_text().replace("variants: [transformer++, diff]", more)
    (tmp_path / "tiny.yaml").write_text(text)
    recipe = recipes.load(tmp_path / "tiny.yaml")
    found = {c.label: c.seeds for c in make_plan(recipe, 257).models}
    assert found == {"transformer++": (0, 1, 2, 3), "dape(bias=fire)": (0, 1, 7), "diff": (0, 1)}
    again = recipes.parse(recipes.dump(recipe), tmp_path / "tiny.yaml")
    assert again == recipe
    recipe = recipes.load(tmp_path / "tiny.yaml", {"control": "diff", "seeds": "[5]"})
    found = {c.label: c.seeds for c in make_plan(recipe, 257).models}
    assert found == {"transformer++": (5,), "dape(bias=fire)": (5, 7, 1), "diff": (5, 0, 1, 2, 3)}


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seeds", "0", "seeds: expected a number from 1 to 1000, or a list, found 0"),
        ("control_seeds", "1001", "control_seeds: expected a number from 1 to 1000"),
        ("control_seeds", "two", "control_seeds: expected a list, found 'two'"),
        ("control_seeds", "[3, 3]", "control_seeds: expected 0 to 1000 different numbers"),
        ("control_seeds", "[1000]", "tuning.seed: 1000 is one of the run's own"),
        ("variants", "[{variant: diff, seeds: -1}]", "seeds: expected a number from 1 to 1000"),
        ("variants", "[{variant: diff, seeds: [1, 1]}]", "seeds: expected 0 to 1000 different"),
    ],
)
def test_what_is_no_list_of_seeds_is_refused(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    with pytest.raises(SoftmapError) as error:
        recipes.load(write_recipe(tmp_path), {key: value})
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_the_control_has_more_runs_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CI", "1")
    monkeypatch.setattr("softmap.report.build", lambda folder: folder / "report.html")
    write_recipe(tmp_path)
    assert main(["compare", "tiny.yaml", "--name", "t", "--control-seeds", "3"]) == 0
    assert "1 run a variant (3 of the control), 4 in all" in capsys.readouterr().err
    run = Path("runs/t")
    assert seeds_of(run) == {"transformer++": [0, 1, 2], "diff": [0]}
    before = {p: p.stat().st_mtime_ns for p in run.rglob("result.json")}
    assert main(["compare", "runs/t", "--seeds", "2", "--variants", "gated"]) == 0
    assert seeds_of(run) == {"transformer++": [0, 1, 2], "diff": [0, 1], "gated": [0, 1]}
    assert before == {p: p.stat().st_mtime_ns for p in before}
    # A call that asks for less takes nothing away.
    assert main(["compare", "tiny.yaml", "--name", "t"]) == 0
    assert seeds_of(run) == {"transformer++": [0, 1, 2], "diff": [0, 1], "gated": [0, 1]}
    assert load(run).missing == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--control-seeds", "2", "--seeds", "3"], "--control-seeds: expected at least the 3 of"),
        (["--control-seeds", "0"], "--control-seeds: expected a number from 1 to 1000, found 0"),
        (["--control-seeds", "1", "2"], "--control-seeds: expected one number, how many, found 2"),
    ],
)
def test_flags_that_make_no_sense(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "demo", *flags]) == 2
    found = capsys.readouterr().err
    assert says in found and len(found.splitlines()) == 1


def test_further_seeds_fill_the_gaps() -> None:
    assert further([0, 2, 5], 4) == [1, 3, 4, 6]
    assert further([], 0) == []
