"""``softmap plan`` and ``softmap train --dry-run``, by the command line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import lab_tiny
import pytest
import torch

from softmap import cli
from softmap.cost import Job
from softmap.lab import recipe as recipes
from softmap.lab.progress import Lines
from softmap.train import Layout


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe whose text is not there, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    path = lab_tiny.write_recipe(tmp_path)
    (tmp_path / "text.txt").unlink()
    return path.name


def test_variants_side_by_side(tiny: str, capsys: pytest.CaptureFixture) -> None:
    flags = ["--gpus", "2xh100", "--variant", "diff", "--efficiency", "0.5"]
    assert cli.main(["plan", tiny, *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny on 2 x h100: 2 processes: 1 share a copy of the parameters")
    assert lines[1].startswith("assumed: 0.5 of 67 TFLOP/s in fp32, by edits of the map 0.1 of 67")
    assert lines[2].startswith("bytes is taken to have 1,024 tokens")
    assert lines[3].split() == ["transformer++", "diff"]
    names = [line.split("  ")[0] or line.split()[0] for line in lines[4:]]
    assert {"parameters", "FLOPs per token", "tokens/s", "days", "cache bytes per token"} <= {
        *names
    }
    assert cli.main(["plan", tiny, *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["assumptions"]["efficiency"] == 0.5
    one = found["variants"]["diff"]
    assert one["tokens"] == 12 * 2 * 32 and one["fits"] and one["would_fit"] is None
    assert one["memory"]["total"] > one["memory"]["parameters"] == 4 * one["parameters"]
    assert all(source.startswith("https://") for source in found["gpus"]["sources"])


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--gpus", "2xh10"], "no facts of a GPU 'h10' (did you mean 'h100'"),
        (["--gpus", "3xh100"], "training.batch_size: expected a multiple of 3"),
        (["--gpus", "2xh100", "--efficiency", "0"], "--efficiency"),
        (["--gpus", "2xh100", "--variant", "dif"], "did you mean 'diff'"),
    ],
)
def test_bad_input_is_one_line(
    tiny: str, flags: list[str], part: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["plan", tiny, *flags]) == 2
    assert part in capsys.readouterr().err


def test_a_dry_run_lays_out_and_writes_nothing(
    tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The parts that FSDP2 makes are those that the plan counts; nobody else need be there."""
    before = sorted(tmp_path.rglob("*"))
    flags = ["--dry-run", "--gpus", "2xh100", "--set", "parallel.shard=all", "--variant", "diff"]
    assert cli.main(["train", tiny, *flags]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(tmp_path.rglob("*")) == before
    config = next(iter(_configs(tiny, "diff")))
    held = Job(config, 32, 2, "fp32", Layout(shard="all"), 2).sizes
    assert said[0] == (
        f"dry run of diff: {held.total:,} parameters, {held.held:,} of them on rank 0"
    )
    assert said[1].startswith("tiny on 2 x h100") and said[-1].startswith("cache bytes per token")
    assert cli.main(["train", tiny, "--gpus", "2xh100"]) == 2
    assert "--gpus belongs to --dry-run" in capsys.readouterr().err


def _configs(path: str, label: str) -> list:
    from softmap.lab.planning import plan_of

    plan = plan_of(recipes.load(path))
    return [mine.config.model_config() for mine in plan.models if mine.label == label]


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.08), ("3b", 3.48), ("7b", 6.74)])
def test_the_sizes_of_the_large_recipes(name: str, billions: float) -> None:
    from softmap.lab.preflight import vocabulary
    from softmap.nn import ModelConfig, accounting

    recipe = recipes.load(name)
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = {field: getattr(recipe.model, field) for field in fields}
    tied = recipe.model.tie_word_embeddings
    config = ModelConfig(vocab_size=vocabulary(recipe), tie_word_embeddings=tied, **shape)
    total = accounting.parameters(config)["total"]
    assert total / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1b", "3b", "7b"])
def test_the_large_recipes_start(name: str, capsys: pytest.CaptureFixture) -> None:
    """On what their first lines name."""
    text = recipes.find(name).read_text()
    gpus = text.partition("--gpus ")[2].split()[0]
    assert cli.main(["train", name, "--dry-run", "--gpus", gpus, "--variant", "diff"]) == 0
    said = capsys.readouterr().out
    assert "does not fit" not in said and "dry run of diff: " in said


def test_the_peak_of_a_known_gpu(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from softmap.lab.plan import training_options
    from softmap.lab.planning import plan_of
    from softmap.lab.trial import full_speed
    from softmap.train import Parallel

    recipe = recipes.load(tiny)
    mine = plan_of(recipe).models[0]
    given = training_options(recipe, 1e-3, 0, "x")
    two = Parallel(torch.device("cuda", 0), ranks=2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    per_token = mine.costs(32)["flops_per_token"]
    assert full_speed(mine, given, two) == pytest.approx(2 * 66.9e12 / per_token)  # fp32
    assert full_speed(mine, given, Parallel(torch.device("cpu"))) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another")
    assert full_speed(mine, given, two) is None


def test_utilisation_on_the_terminal() -> None:
    stream = io.StringIO()
    lines = Lines(stream, interval=0.0)
    lines.plan({"diff": 1}, 10, 64)
    lines.start("diff", 0)
    lines.step("diff", 0, {"step": 2, "loss": 1.0, "tokens_per_second": 5000.0, "mfu": 0.412})
    lines.step("diff", 0, {"step": 4, "loss": 1.0, "tokens_per_second": 5000.0})
    with_it, without = stream.getvalue().splitlines()[1:]
    assert "5,000 tokens/s (41% MFU)  left" in with_it and "5,000 tokens/s  left" in without
