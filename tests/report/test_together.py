"""Several runs on one page: side by side where the same was measured, refused where it was not."""

from __future__ import annotations

import json

import fake
import pytest

from softmap import report
from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.report import assemble

SMALL = {"windows": 40, "context": 32}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(assemble, "_pictures", lambda *_: None)


def change(run, *keys, value):
    """Write another value into a run's ``run.json``."""
    path = run / "run.json"
    info = inner = json.loads(path.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(info))
    return run


def summary(*runs, out):
    report.build_together(runs, out)
    return json.loads((out / "report.json").read_text())


def test_variants_of_two_runs_against_the_first_control(tmp_path):
    a = fake.make(tmp_path / "a", variants=3, seeds=2, **SMALL)
    b = fake.make(
        tmp_path / "b", variants=2, seeds=3, skip=(("diff", 2), ("transformer++", 2)), **SMALL
    )
    change(b, "training", "weight_decay", value=0.0)
    change(b, "settings", value={"training.weight_decay": 0.0})
    change(a, "settings", value={"training.weight_decay": 0.1})
    found = summary(a, b, out=tmp_path / "page")
    rows = {row["variant"]: row for row in found["variants"]}
    assert list(rows) == ["a/transformer++", "a/diff", "a/diff2", "b/transformer++", "b/diff"]
    assert found["control"] == "a/transformer++"
    # The made-up losses are a function of variant and seed: each variant equals its twin.
    assert rows["b/transformer++"]["difference"]["mean"] == 0
    assert rows["b/diff"]["difference"]["mean"] == rows["a/diff"]["difference"]["mean"]
    # A repetition is no replicate: b/diff is in the pool once, with a/diff.
    assert found["statistics"]["pooled_df"] == 1 + 1 + 1
    # What only one run declares is missing from that run alone.
    assert [pair["variant"] for pair in found["missing"]] == ["b/transformer++", "b/diff"]
    assert found["differences"] == ["training.weight_decay (a: 0.1, b: 0.0)"]
    assert any("weight_decay" in note for note in found["verdict"]["caveats"])
    page = (tmp_path / "page/report.html").read_text()
    assert "softmap report" in page and "a: softmap compare recipes/a.yaml" in page


@pytest.mark.slow
def test_a_method_keeps_its_colour_and_its_logs_are_found(tmp_path):
    a = fake.make(tmp_path / "a", variants=3, **SMALL)
    b = fake.make(tmp_path / "b", variants=4, **SMALL)
    page = tmp_path / "deep/er/page"
    found = summary(a, b, out=page)
    hues, alone = fake.hues(page), fake.hues(report.build(a).parent)
    assert alone == hues[:3] == hues[3:6] and len(set(hues)) == 4
    assert len(found["every_run"]) == 7
    assert all((page / row["log"]).is_file() for row in found["every_run"])
    text = (page / "report.html").read_text()
    assert "Two comparisons side by side" in text and "Seven ways" not in text


@pytest.mark.slow
def test_many_runs_of_one_name(tmp_path):
    runs = [fake.make(tmp_path / str(n) / "run", variants=15, **SMALL) for n in range(3)]
    found = summary(*runs, out=tmp_path / "page")
    assert len({row["variant"] for row in found["variants"]}) == 45
    assert found["control"] == f"{runs[0]}/transformer++"


@pytest.mark.slow
def test_no_seed_in_common_is_no_obstacle(tmp_path):
    a = fake.make(tmp_path / "a", variants=2, seeds=1, **SMALL)
    b = fake.make(tmp_path / "b", variants=2, seeds=3, **SMALL)
    for variant in ("transformer++", "diff"):
        (fake.folder(b, variant, 0) / "result.json").unlink()
    rows = {r["variant"]: r for r in summary(a, b, out=tmp_path / "page")["variants"]}
    found = rows["b/diff"]["difference"]
    assert (found["runs"], found["control_runs"]) == (2, 1) and found["low"] is not None


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        (("data", "hash"), "other", "differ in data '9f2b7c1de4a05d6f' and 'other'"),
        (("data", "vocab_size"), 7, "differ in vocab_size 1024 and 7"),
        (("training", "budgets_tokens"), [1, 2], "budgets"),
        (("settings",), {"evaluation.windows": 3}, "evaluation.windows None and 3"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, keys, value, says):
    a = fake.make(tmp_path / "a", variants=2, **SMALL)
    b = change(fake.make(tmp_path / "b", variants=2, **SMALL), *keys, value=value)
    assert main(["report", str(a), str(b)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and says in said[0] and "cannot be compared" in said[0]
    assert not (tmp_path / "a-and-b").exists()


def test_one_run_twice_none_and_a_foreign_folder(tmp_path, capsys):
    a = fake.make(tmp_path / "a", variants=2, **SMALL)
    b = fake.make(tmp_path / "b", variants=2, **SMALL)
    with pytest.raises(SoftmapError, match="found one twice"):
        report.build_together([a, a / ".." / "a"], tmp_path / "page")
    with pytest.raises(SoftmapError, match=r"expected an empty folder or one with a page, found"):
        report.build_together([a, b], b)
    assert main(["report", str(a), str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["report", str(a), "--out", str(tmp_path / "x")]) == 2
    assert main(["report", str(a), str(b)]) == 0
    assert (tmp_path / "a-and-b/report.html").exists()
