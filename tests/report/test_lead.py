"""What was compared, and in which form, in words."""

from __future__ import annotations

import json

import fake
import pytest

from softmap import report
from softmap.report.lead import form, lead


def _lead(folder, **options):
    return lead(report.summary(fake.make(folder, windows=40, context=32, **options)))


def test_size_tokens_runs_and_text(tmp_path):
    found = _lead(tmp_path / "run", variants=3, seeds=2)
    assert found.startswith("Three ways to compute attention, each in a model of 1.05M parameters")
    assert "the same 819k tokens (0.78 a parameter) of text from stdlib in the same order" in found
    assert "2 runs a variant, judged by 27 held-out documents, on Some CPU." in found


def test_one_way_is_not_compared(tmp_path):
    found = _lead(tmp_path / "run", variants=1)
    assert found.startswith("One way to compute attention, in a model of 1.05M parameters")
    assert "the same" not in found and " 1 run, judged" in found


def test_runs_of_different_sizes_are_not_called_ways(tmp_path):
    summary = report.summary(fake.make(tmp_path / "run", variants=2, windows=40, context=32))
    rows = summary["variants"]
    rows[1]["parameters"] = 2 * rows[0]["parameters"]
    found = lead(summary | {"runs": ["a", "b"]})
    assert found.startswith("Two comparisons side by side, models of 1.05M to 2.1M parameters")
    assert "(0.39 to 0.78 a parameter)" in found and "the same" not in found


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"qk_norm": True, "rotary_fraction": 0.25}, "T, with QK norm and rotary fraction 0.25"),
        ({}, "T, in the plain backbone of Transformer++"),
        (None, "T"),
    ],
)
def test_a_form_is_its_title_options_backbone_and_backend(fields, expected):
    row = {"variant": "a", "spec": "a", "title": "T", "backbone": fields, "impl": "native"}
    assert form(row) == f"{expected}, by the backend native"
    renamed = row | {"spec": "a(b=1)", "impl": None}
    assert form(renamed) == expected.replace("T", "T, as a(b=1)", 1)


def test_the_page_says_which_form_ran(tmp_path, monkeypatch):
    monkeypatch.setattr(report.assemble, "_pictures", lambda *_: None)
    run = fake.make(tmp_path / "run", variants=2, windows=40, context=32)
    path = fake.folder(run, "diff") / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": {"qk_norm": True}}))
    assert "Diff attention, with QK norm, by the backend folded" in report.build(run).read_text()
