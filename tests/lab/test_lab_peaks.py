"""Tuned peaks belong to a run, and are used for the setting alone that they were found in."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from softmap.errors import SoftmapError
from softmap.lab.peaks import find_peaks, trained_as, tuned_for
from softmap.lab.recipe import Recipe


def write(path: Path, recipe: Recipe, peak: Any = 0.25) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"peaks": {"diff": {"peak_lr": peak}}, "tuned_for": tuned_for(recipe)}
    path.write_text(json.dumps(found))
    return path


def change(recipe: Recipe, section: str, **values: Any) -> Recipe:
    changed = dataclasses.replace(getattr(recipe, section), **values)
    return dataclasses.replace(recipe, **{section: changed})


def test_the_runs_own_come_before_the_file_that_the_recipe_names(
    tiny: Recipe, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(tiny, peaks="named.json")
    write(tmp_path / "named.json", tiny, 0.5)
    found = find_peaks(recipe, tmp_path / "run")
    assert (found.by_variant, found.source) == ({"diff": 0.5}, "tuned")
    mine = write(tmp_path / "run/peaks.json", tiny)
    found = find_peaks(recipe, tmp_path / "run")
    assert (found.by_variant, found.path) == ({"diff": 0.25}, mine)
    given = dataclasses.replace(tiny, peaks={"diff": 0.125})
    assert find_peaks(given, tmp_path / "run").source == "recipe"


@pytest.mark.parametrize(
    ("setting", "peak", "there"),
    [({}, 0.25, True), ({"weight_decay": 0.2}, 0.25, False), ({}, 0.5, False)],
)
def test_earlier_runs_are_those_of_this_very_training_and_peak(
    tiny: Recipe, tmp_path: Path, setting: dict[str, Any], peak: float, there: bool
) -> None:
    path = write(tmp_path / "run/peaks.json", tiny)
    runs = {"diff": {"peak_lr": peak, "losses": [[3.0, 2.0], [3.1, 2.1]]}}
    found = json.loads(path.read_text()) | {"spreads": {"training": trained_as(tiny), "runs": runs}}
    path.write_text(json.dumps(found))
    used = find_peaks(change(tiny, "training", **setting), tmp_path / "run")
    assert used.by_variant == {"diff": 0.25}  # peaks depend on less
    assert used.earlier == ({"diff": runs["diff"]["losses"]} if there else {})


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("model", {"hidden_size": 64}),
        ("model", {"context": 16}),
        ("data", {"data": "other.txt"}),
        ("data", {"tokenizer": "bpe:300"}),
        ("training", {"batch_size": 4}),
        ("training", {"steps": 24}),
    ],
)
def test_peaks_of_another_setting_are_not_used_and_named(
    tiny: Recipe, tmp_path: Path, section: str, value: dict[str, Any]
) -> None:
    write(tmp_path / "run/peaks.json", change(tiny, section, **value))
    found = find_peaks(tiny, tmp_path / "run")
    assert found.by_variant == {} and found.source == "recipe"
    (sentence,) = found.unused
    assert next(iter(value)) in sentence and "another setting" in sentence


def test_another_way_to_write_the_same_folder_is_the_same_text(
    tiny: Recipe, tmp_path: Path
) -> None:
    write(tmp_path / "run/peaks.json", change(tiny, "data", data="texts"))
    same = change(tiny, "data", data="./texts/")
    assert find_peaks(same, tmp_path / "run").by_variant == {"diff": 0.25}


def test_a_file_that_the_recipe_names_and_is_not_there(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SoftmapError, match="no such file"):
        find_peaks(dataclasses.replace(tiny, peaks="peaks.json"))


@pytest.mark.parametrize("peak", [0, -1.0, "3e-3", None, True, [0.1]])
def test_peaks_that_are_none(tiny: Recipe, tmp_path: Path, peak: Any) -> None:
    write(tmp_path / "run/peaks.json", tiny, peak)
    with pytest.raises(SoftmapError, match=r"peaks\.json: expected the peaks that --tune writes"):
        find_peaks(tiny, tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"peaks": {}, "tuned_for": 3}', '{"peaks": NaN}']
)
def test_a_file_of_something_else(tiny: Recipe, tmp_path: Path, text: str) -> None:
    (tmp_path / "peaks.json").write_text(text)
    with pytest.raises(SoftmapError, match=r"peaks\.json"):
        find_peaks(dataclasses.replace(tiny, peaks="peaks.json"))
