"""A training that begins with the weights of another: longer sequences as a second phase."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lab_tiny
import pytest
from safetensors.torch import load_file

from softmap.errors import SoftmapError
from softmap.lab.compare import Request, compare
from softmap.lab.one import TrainRequest, train_one
from softmap.lab.recipe import Recipe, load

FEW = {"training.steps": "4", "training.budgets": "[1]"}
LONG = {"model.context": "64", "model.backbone.rope_theta": "50000", "training.peak_lr": "1e-9"}


def recipe(folder: Path, **more: str) -> Recipe:
    return load(folder / "tiny.yaml", {**FEW, **more})


@pytest.mark.slow
def test_a_phase_of_longer_sequences(tmp_path: Path) -> None:
    lab_tiny.write_recipe(tmp_path)
    model = train_one(recipe(tmp_path), TrainRequest("diff", out=tmp_path, name="one"))
    phase = {**LONG, "training.start": str(model), "training.warmup": "0"}
    longer = recipe(tmp_path, **phase)
    second = train_one(longer, TrainRequest("diff", out=tmp_path, name="two"))
    # Steps of nothing: the weights of the first, which read twice as far by slower angles.
    before, after = (load_file(folder / "model.safetensors") for folder in (model, second))
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    config = json.loads((second / "config.json").read_text())
    assert config["max_position_embeddings"] == 64
    assert config["backbone"]["rope_theta"] == 50000

    def refused(said: str, given: Recipe, variant: str = "diff") -> None:
        with pytest.raises(SoftmapError, match=said) as caught:
            train_one(given, TrainRequest(variant, out=tmp_path, name="three"))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "three").rglob("trial.json"))

    refused("expected variant 'transformer[+][+]', .* found 'diff'", longer, "transformer++")
    bpe = {**phase, "data.tokenizer": "bpe:257"}
    refused("expected the tokenizer of the text", recipe(tmp_path, **bpe))
    wide = {**phase, "model.hidden_size": "64"}
    refused("expected hidden_size 64, .* found 32", recipe(tmp_path, **wide))
    gone = replace(longer, training=replace(longer.training, start=str(tmp_path)))
    refused("the folder of an exported model", gone)
    with pytest.raises(SoftmapError, match=r"training\.start: .* expected variant"):
        compare(longer, Request(tmp_path / "runs", jobs=1))
    assert not list((tmp_path / "runs").rglob("run.json"))
    # Another beginning is another training.
    (model / "checksums.json").write_text((second / "checksums.json").read_text())
    with pytest.raises(SoftmapError, match=r"by checksums\.json"):
        train_one(longer, TrainRequest("diff", out=tmp_path, name="two"))
