"""``softmap train``: one model of a recipe, in the folder of one trial."""

from __future__ import annotations

import json
from pathlib import Path

import lab_tiny
import pytest

from softmap import cli
from softmap.lab.one import Wanted, train_one
from softmap.lab.recipe import Recipe, load
from softmap.report.load import read_log

FEW = {"training.steps": "4", "training.budgets": "[1]", "training.checkpoint_every": "1"}


@pytest.fixture
def few(tmp_path: Path) -> Recipe:
    return load(lab_tiny.write_recipe(tmp_path), FEW)


def test_it_is_the_trial_of_a_comparison(few: Recipe, tmp_path: Path, no_page: None) -> None:
    """The same bits as the trial that ``compare`` trains of the same recipe."""
    from softmap.lab.compare import Request, compare

    model = train_one(few, Wanted("diff", out=tmp_path))
    assert model == tmp_path / "tiny-trained" / "diff" / "seed0" / "model"
    compare(few, Request(tmp_path / "runs", "softmap compare"))
    twin = tmp_path / "runs" / "tiny" / "variants" / "diff" / "seed0"
    weights = [folder / "model.safetensors" for folder in (model, twin / "model")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    mine, its = (json.loads((f / "trial.json").read_text()) for f in (model.parent, twin))
    assert mine == its
    assert [line["loss"] for line in read_log(model.parent / "train.jsonl")] == [
        line["loss"] for line in read_log(twin / "train.jsonl")
    ]


def test_bad_input_is_one_line(few: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train_one(few, Wanted(out=tmp_path))
    recipe = str(tmp_path / "tiny.yaml")
    flags = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]

    def said(*more: str) -> str:
        assert cli.main(["train", recipe, "--out", str(tmp_path), *flags, *more]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("softmap: err")]
        return line

    assert "training.peak_lr was" not in said("--set", "training.weight_decay=0.5")
    assert "training.weight_decay was 0.1, is 0.5" in said("--set", "training.weight_decay=0.5")
    assert "--seed" in said("--seed", "-1")
    assert "nosuch" in said("--variant", "nosuch")
    (tmp_path / "tiny-trained" / "diff" / "seed0").mkdir(parents=True)
    (tmp_path / "tiny-trained" / "diff" / "seed0" / "mine.txt").write_text("x")
    assert "found 'mine.txt'" in said("--variant", "diff")
    (tmp_path / "tiny-trained" / "run.json").write_text("{}")
    assert "expected no run of several" in said("--variant", "diff")
