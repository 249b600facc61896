"""The words follow the intervals, and never say more."""

from __future__ import annotations

import json

import fake
import pytest

from softmap import report


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
        assert ("No difference from the control seen" in point["text"]) == (expected == "none")
    assert {"none", "better"} <= {point["status"] for point in points.values()}


def test_one_seed_says_what_it_cannot_tell(tmp_path):
    verdict = _verdict(tmp_path / "run")
    assert verdict["headline"].startswith("In this single-seed run")
    text = " ".join(verdict["caveats"])
    assert "only the choice of held-out text" in text
    assert "a few hundredths to a few tenths" in text
    assert all(point["tag"] != "lower loss" for point in verdict["points"])


def test_several_seeds_say_what_the_interval_covers(tmp_path):
    verdict = _verdict(tmp_path / "run", seeds=2, variants=3)
    assert verdict["headline"].startswith("Over 2 seeds")
    assert "both the held-out text and 2 seeds" in " ".join(verdict["caveats"])


def test_peaks_that_only_some_tuned_are_unfair(tmp_path):
    verdict = _verdict(tmp_path / "run", variants=3)
    (note,) = [note for note in verdict["caveats"] if "learning rate" in note]
    assert note.startswith("Unfair learning rates: the peak was tuned for transformer++ and diff, ")
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
