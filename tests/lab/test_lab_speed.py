"""Speed and memory apart from training: what is written, and what is said of a busy machine."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from softmap.files import sealed
from softmap.lab import speed
from softmap.lab.compare import Request, compare
from softmap.lab.recipe import Entry, Recipe


@pytest.mark.slow
def test_each_variant_has_its_speed_and_twins_take_the_same_memory(
    tiny: Recipe, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("softmap.lab.compare.measure_speed", speed.measure_speed)
    twins = [Entry("transformer++"), Entry("transformer++", label="twin", peak_lr=1e30)]
    recipe = dataclasses.replace(tiny, variants=twins)
    request = Request(tmp_path / "runs", speed=True)
    path = compare(recipe, request).parent / "speed.json"
    found = sealed.read_sealed(path)
    assert list(found["variants"]) == ["transformer++", "twin"]
    for measured in found["variants"].values():
        given = measured["tokens_per_second"]
        assert given["count"] == speed.ROUNDS and 0 < given["low"] <= given["median"]
    one, other = (measured["peak_memory_bytes"] for measured in found["variants"].values())
    assert 0.85 < one / other < 1.15
    assert found["device"]["threads"] == 1 and found["batch_tokens"] == 64

    sealed.write_sealed(path, found | {"disturbed": None, "created": "before"})
    compare(recipe, request)
    assert json.loads(path.read_text())["created"] == "before"  # it is not measured again


def rounds(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "median": 100.0, "high": high, "count": 7}


def test_a_machine_that_is_not_idle_is_named() -> None:
    quiet = {"diff": rounds(95, 105), "dape": rounds(98, 101)}
    assert speed.disturbed(0.1, quiet) is None
    assert speed.disturbed(1.5, quiet) == (
        "the machine was not idle: other processes used 1.5 cores"
    )
    assert speed.disturbed(0.0, {**quiet, "dape": rounds(60, 120)}) == (
        "the machine was not idle: the rounds of dape differ by 60 %"
    )
