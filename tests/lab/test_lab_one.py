"""``softmap train``: one model of a recipe, in the folder of one trial."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lab_tiny
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from softmap import cli
from softmap.lab.one import TrainRequest, train_one
from softmap.lab.plan import make_plan
from softmap.lab.preflight import least_memory
from softmap.lab.recipe import Recipe, load
from softmap.report.load import read_log
from softmap.train import Layout

FEW = {"training.steps": "4", "training.budgets": "[1]", "training.checkpoint_every": "1"}


@pytest.fixture
def few(tmp_path: Path) -> Recipe:
    return load(lab_tiny.write_recipe(tmp_path), FEW)


@pytest.mark.slow
def test_it_is_the_trial_of_a_comparison(few: Recipe, tmp_path: Path, no_page: None) -> None:
    """The same bits as the trial that ``compare`` trains of the same recipe."""
    from softmap.lab.compare import Request, compare

    model = train_one(few, TrainRequest("diff", out=tmp_path))
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


@pytest.mark.slow
def test_torchrun_gives_the_same_model(tmp_path: Path) -> None:
    """Sharded parameters, shared sequences: the weights and losses of one process."""
    recipe = lab_tiny.write_recipe(tmp_path)
    flags = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
    train = ["-m", "softmap", "train", str(recipe), "--out", str(tmp_path), *flags]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    laid_out = ["--set", "parallel.shard=all", "--set", "parallel.context=2"]
    for argv in ([*train, "--name", "one"], [*torchrun, *train, "--name", "two", *laid_out]):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (tmp_path / name / "transformerpp" / "seed0" for name in ("one", "two"))
    weights = [load_file(folder / "model" / "model.safetensors") for folder in (one, two)]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    losses = [np.load(folder / "eval-0.npz")["losses"] for folder in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert (one / "model/config.json").read_text() == (two / "model/config.json").read_text()
    # A fault that all processes find is said once, and one of a rank alone by it.
    done = subprocess.run(
        [sys.executable, *torchrun, *train, "--set", "training.batch_size=3"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = [line for line in done.stderr.splitlines() if line.startswith("softmap: error")]
    assert found == [
        "softmap: error: training.batch_size: expected a multiple of 2, the ranks that share a "
        "batch, found 3"
    ]


def test_bad_input_is_one_line(few: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train_one(few, TrainRequest(out=tmp_path))
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


def test_memory_is_that_of_a_rank(few: Recipe) -> None:
    """A quarter of the parameters, and of the tokens: half of each of one sequence of two."""
    recipe = replace(few, parallel=Layout(shard=4, context=2))
    (mine, *_) = make_plan(recipe, 257).models
    whole, part = (least_memory(mine, recipe, ranks) for ranks in (1, 4))
    states = 16 * mine.parameters["total"]
    assert part == states // 4 + (whole - states) // 4
    memory = least_memory(mine, replace(recipe, parallel=Layout()), 2)
    assert memory == states + (whole - states) // 2
