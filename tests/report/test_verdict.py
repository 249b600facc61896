"""The words follow the intervals, and never say more."""

from __future__ import annotations

import json

import fake
import pytest

from softmap import report
from softmap.report.answers import Question


def _verdict(folder, **options):
    return report.summary(fake.make(folder, windows=48, context=32, **options))["verdict"]


def test_words_agree_with_the_intervals_of_every_variant(tmp_path):
    summary = report.summary(fake.make(tmp_path / "run", windows=48, context=32, seeds=3))
    points = {point["variant"]: point for point in summary["verdict"]["points"]}
    for row in summary["variants"][1:]:
        low, high = row["difference"]["low"], row["difference"]["high"]
        expected = "better" if high < 0 else "worse" if low > 0 else "none"
        point = points[row["variant"]]
        assert point["status"] == expected
        assert point["text"].startswith("Not resolved: ") == (expected == "none")
        if expected == "none":
            assert (
                f"{row['more_runs']['for_difference']}" in point["text"]
                or "more run" in (point["text"])
            )
    assert {"none", "better"} <= {point["status"] for point in points.values()}
    assert (
        "is not resolved" in summary["verdict"]["headline"]
        or "are not resolved" in (summary["verdict"]["headline"])
    )


def test_nothing_repeated_gives_no_verdict(tmp_path):
    verdict = _verdict(tmp_path / "run")
    assert verdict["headline"].startswith("No verdict: nothing was repeated.")
    text = " ".join(verdict["caveats"])
    assert "Two runs of the control would give a first estimate" in text
    assert {point["tag"] for point in verdict["points"]} == {"no verdict"}
    for point in verdict["points"]:
        assert "no verdict" in point["text"] and "interval" not in point["text"]
        assert point["status"] == "none"


def test_two_runs_of_the_control_give_intervals(tmp_path):
    labels = ("diff", "diff2", "dcmha")
    run = fake.make(
        tmp_path / "run",
        variants=4,
        seeds=2,
        windows=40,
        context=32,
        skip=tuple((label, 1) for label in labels),
    )
    found = report.summary(run)
    assert all(row["difference"]["df"] == pytest.approx(1) for row in found["variants"][1:])
    assert "could not be checked" in " ".join(found["verdict"]["caveats"])
    assert found["verdict"]["headline"].startswith(
        ("Over 1 run a variant (2 of the control)", "Nothing is resolved")
    )


def test_several_runs_say_what_the_interval_covers(tmp_path):
    verdict = _verdict(tmp_path / "run", seeds=4, variants=4)
    assert verdict["headline"].startswith("Over 4 runs a variant")
    text = " ".join(verdict["caveats"])
    assert "variation between runs" in text and "on other text" in text
    assert "in 80% of cases, with three comparisons corrected as one family" in text
    assert "pooled with 12 degrees of freedom (equal spreads: p = " in text


def test_equal_within_a_margin_that_is_asked_for(tmp_path):
    run = fake.make(tmp_path / "run", variants=3, seeds=6, windows=40, context=32)
    found = report.summary(run, Question(margin=0.2))
    row, point = found["variants"][2], found["verdict"]["points"][0]
    assert row["variant"] == point["variant"] == "diff2" and row["difference"]["answer"] == "equal"
    assert point["text"].startswith("Equal to transformer++ within 0.2 nats")
    assert "equals the control" in found["verdict"]["headline"]


def test_the_trend_stands_in_the_verdict(tmp_path):
    """The made-up effects grow with the tokens, by 60 % of their size over two doublings."""
    run = fake.make(tmp_path / "run", variants=5, seeds=5, windows=40, context=32)
    found = report.summary(run)
    points = {point["variant"]: point for point in found["verdict"]["points"]}
    assert points["dape(bias=kerple)"]["tag"] == "ahead, growing"
    assert points["diff"]["tag"].startswith("behind, ")
    assert "nats a doubling of the tokens" in points["diff"]["text"]


def test_peaks_that_only_some_tuned_are_unfair(tmp_path):
    verdict = _verdict(tmp_path / "run", variants=3)
    (note,) = [note for note in verdict["caveats"] if "learning rate" in note]
    assert note.startswith(
        "Unequal tuning: the peak learning rate was tuned for transformer++ and diff, "
    )
    assert "not for diff2 (0.008)" in note


def test_peaks_that_nobody_tuned(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, windows=40, context=32)
    for label in ("transformer++", "diff"):
        path = fake.folder(run, label) / "result.json"
        result = json.loads(path.read_text())
        path.write_text(json.dumps({**result, "peak_lr_source": "recipe"}))
    (note,) = [n for n in report.summary(run)["verdict"]["caveats"] if "learning rate" in n]
    assert "not tuned for any variant; they took 0.004 and 0.008" in note


def test_costs_stand_beside_the_quality(tmp_path):
    for point in _verdict(tmp_path / "run", variants=4)["points"]:
        for cost in ("tokens per second", "FLOPs per token", "peak memory"):
            assert cost in point["text"]


def test_without_the_control_nothing_is_compared(tmp_path):
    verdict = _verdict(tmp_path / "run", variants=3, skip=(("transformer++", 0),))
    assert "has not finished" in verdict["headline"] and verdict["points"] == []
    assert "transformer++" in verdict["incomplete"]


def test_the_control_alone(tmp_path):
    verdict = _verdict(tmp_path / "run", variants=1)
    assert "only the control" in verdict["headline"] and verdict["incomplete"] is None


@pytest.mark.parametrize("seeds", [1, 2])
def test_missing_pairs_are_named(tmp_path, seeds):
    verdict = _verdict(tmp_path / "run", variants=3, seeds=seeds, skip=(("diff", seeds - 1),))
    assert ("diff (seed 1)" if seeds == 2 else "diff") in verdict["incomplete"]
