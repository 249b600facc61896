"""The calibration benchmark: right on runs whose truth is known, and strict about its input."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "calibrate.py"


@pytest.fixture(scope="module")
def calibrate():
    spec = importlib.util.spec_from_file_location("calibrate", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_normal_runs_are_calibrated(calibrate, tmp_path, capsys):
    out = tmp_path / "out.json"
    argv = ["--simulate", "0.03", "0.02", "--runs", "30", "--draws", "150", "--out", str(out)]
    assert calibrate.main(argv) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["runs_a_side"] for row in rows] == [2, 2, 3, 3, 5, 5] * 2
    assert len(capsys.readouterr().out.splitlines()) == len(rows)
    for row in rows:
        assert row["false_verdicts"]["low"] <= 0.05 < row["coverage_of_the_family"]["high"]
        assert row["false_verdicts"]["rate"] + row["coverage_of_the_family"]["rate"] == 1
    found = {row["runs_a_side"]: row["found"]["rate"] for row in rows if row["family"] == "alone"}
    assert found[2] < found[3] < found[5]


def test_runs_of_two_levels_are_not_called_calm(calibrate):
    """Runs that are no normal noise (every second one is 1 higher) show in the half-widths."""
    level = np.arange(20) % 2 + np.random.default_rng(0).normal(0, 0.01, 20)
    quiet = np.random.default_rng(1).normal(0, 0.01, 20)
    rows = calibrate.calibrate({"two levels": level}, 60, 0.05)
    calm = calibrate.calibrate({"quiet": quiet}, 60, 0.05)
    assert rows[2]["median_half_width"] > 20 * calm[2]["median_half_width"]


def test_splits_are_disjoint_inside_and_distinct(calibrate):
    splits = list(calibrate._splits(4, 2, 1000, 0))
    assert len(splits) == 6 and all(len(set(split)) == 4 for split in splits)


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"a": [1, 2, 3]}', '{"a": [1, 2, 3, NaN]}', "{}", '{"a": "x"}']
)
def test_bad_input_is_one_line(calibrate, tmp_path, capsys, text):
    path = tmp_path / "losses.json"
    path.write_text(text)
    assert calibrate.main([str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("calibrate: error: ") and len(said.err.splitlines()) == 1
    assert said.out == ""
