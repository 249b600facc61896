"""Schedules compared as variants are, the points of their decays kept, and the valley seen."""

from __future__ import annotations

import json
from pathlib import Path

import lab_tiny
import pytest

from softmap.cli import main

ARMS = """variants:
  - {variant: transformer++, label: wsd-s}
  - {variant: transformer++, label: wsd, training: {schedule: wsd}}
  - {variant: transformer++, label: oracle, training: {schedule: cosine-oracle}}
"""

pytestmark = pytest.mark.slow


def test_schedules_side_by_side_and_their_valley(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lab_tiny.write_recipe(tmp_path)
    text = path.read_text().replace("variants: [transformer++, diff]\n", ARMS)
    text = text.replace("  precision: fp32", "  precision: fp32\n  keep_points: true")
    path.write_text(text.replace("share: 0.5", "share: 1.0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("softmap.report.assemble._pictures", lambda *_: None)
    assert main(["compare", str(path), "--tune", "--jobs", "1"]) == 0
    run = tmp_path / "runs" / "tiny"
    peaks = json.loads((run / "peaks.json").read_text())["peaks"]
    assert set(peaks) == {
        "transformer++", "transformer++ (schedule=wsd)", "transformer++ (schedule=cosine-oracle)",
    }  # fmt: skip
    report = json.loads((run / "report.json").read_text())
    rows = {row["variant"]: row for row in report["variants"]}
    assert rows["wsd"]["peak_lr_source"] == "tuned"
    assert rows["wsd-s"]["mean_lr"] / rows["wsd-s"]["peak_lr"] != pytest.approx(
        rows["oracle"]["mean_lr"] / rows["oracle"]["peak_lr"]
    )
    for label in ("wsd", "oracle"):
        assert rows[label]["difference"] and rows[label]["equal_compute"]
    assert "At equal total compute" in (run / "report.html").read_text()
    # 12 steps of 64 tokens; a decay of one step each at 3 and 6 is thrown away; 3 + 6 + 12 steps.
    spent = {
        label: json.loads((run / f"variants/{label}/seed0/budget-2.json").read_text())["spent"]
        for label in rows
    }
    assert spent == {"wsd-s": 12 * 64, "wsd": 14 * 64, "oracle": 21 * 64}
    kept = {label: len(list((run / f"variants/{label}/seed0/points").iterdir())) for label in rows}
    assert kept == {"wsd-s": 6, "wsd": 6, "oracle": 3}
    capsys.readouterr()
    words = ["eval", str(run), "--suite", "river", "--quick", "--json", "river.json"]
    assert main(words) == 0
    cells = json.loads(Path("river.json").read_text())["suites"]["river"]["cells"]
    heads = {cell["measure"]: set(cell["models"]) for cell in cells if cell["at"] is None}
    assert heads["decayed"] == set(rows) and heads["stable"] == {"wsd-s", "wsd"}
    assert main(["compare", str(path), "--jobs", "1"]) == 0  # goes on: nothing is trained again
