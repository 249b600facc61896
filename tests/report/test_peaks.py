"""The tuning on the page: what was tried, what was taken, how flat it was."""

from __future__ import annotations

import json

import fake
import pytest

from softmap import report
from softmap.errors import SoftmapError
from softmap.report import peaks
from softmap.report.load import load

SMALL = {"windows": 8, "context": 16}


def tuned(run, **losses):
    """Of the control; its runs took 0.008."""
    for path in run.rglob("result.json"):
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"spec": result["variant"]}))
    found = {"transformer++": {"peak_lr": 0.008, "losses": losses}}
    found["diff"] = {"peak_lr": 1.0, "losses": losses}  # not the one that it took
    (run / "peaks.json").write_text(json.dumps({"peaks": found}))
    return run


def test_what_was_tried_is_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("softmap.report.assemble._pictures", lambda *_: None)
    losses = {"0.008": [3.0, 3.2], "0.016": [3.1, None], "0.032": [None, None], "0.004": [4.0, 4.0]}
    run = tuned(fake.make(tmp_path / "run", variants=2, seeds=2, **SMALL), **losses)
    (row,) = report.summary(run)["peaks"]
    assert (row["variant"], row["peak_lr"]) == ("transformer++", 0.008)
    assert [point["peak_lr"] for point in row["tried"]] == [0.004, 0.008, 0.016, 0.032]
    assert row["tried"][1]["mean"] == pytest.approx(3.1)
    assert row["tried"][1]["sd"] == pytest.approx(0.2 / 2**0.5)
    page = report.build(run).read_text()
    table = page[page.index("learning rates that were tried") :]
    assert "<strong>3.100 ± 0.141</strong>" in table
    assert "<td>3.100, 1 of 2 diverged</td><td>diverged</td>" in table
    other = fake.make(tmp_path / "other", variants=2, seeds=2, **SMALL)
    both = report.build_together([other, run], tmp_path / "both")
    (row,) = json.loads((both.parent / "report.json").read_text())["peaks"]
    assert row["variant"] == "run/transformer++"


def test_a_single_run_at_each_peak_has_no_spread():
    rows = [{"variant": "a", "peak_lr": 1.0, "tried": peaks._tried({"1.0": 2.5, "2.0": None})}]
    rows += [{"variant": "b", "peak_lr": 4.0, "tried": peaks._tried({"4.0": [2.25]})}]
    found = peaks.table(rows)
    assert found["peaks"] == [1.0, 2.0, 4.0]
    texts = [row["texts"] for row in found["rows"]]
    assert texts == [["2.500", "diverged", ""], ["", "", "2.250"]]
    assert peaks.table(None) == {"peaks": [], "rows": []}


def test_damage_is_named(tmp_path):
    run = tuned(fake.make(tmp_path / "run", variants=2, **SMALL), **{"0.008": "low"})
    with pytest.raises(SoftmapError, match=r"peaks.json: peaks.*expected"):
        load(run)
