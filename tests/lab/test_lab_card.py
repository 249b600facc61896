"""The model card says what the run's own files say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from softmap.lab.card import _public, model_card
from softmap.lab.plan import make_plan, training_options
from softmap.lab.recipe import Recipe

META = {
    "source": "a text", "train_tokens": 1234567, "hash": "abc",
    "vocab_size": 257, "tokenizer": "bytes", "heldout_tokens": 4321, "bytes_per_token": 2.0,
}  # fmt: skip
BUDGETS = [
    {"tokens": 64_000, "loss": 2.0, "stderr": 0.03125},
    {"tokens": 128_000, "loss": 1.3862943611198906, "stderr": None},  # two bits a token
]


def test_it_holds_the_runs_numbers(tiny: Recipe) -> None:
    mine = make_plan(tiny, 257).models[1]
    given = training_options(tiny, mine.peak_lr, 7, mine.label)
    tiny.data = replace(tiny.data, max_bytes=5000)
    bench = SimpleNamespace(recipe=tiny, corpus=SimpleNamespace(meta=META), windows=[0] * 8)
    card = model_card(mine, given, bench, BUDGETS)  # type: ignore[arg-type]
    front = yaml.safe_load(card.split("---")[1])
    assert front["tags"] == ["softmap", "diff"] and front["library_name"] == "transformers"
    for said in (
        f"{mine.parameters['total']:,} parameters", "`diff` (arXiv 2410.05258)", "- seed: 7\n",
        "- text: text.txt, the first 5,000 bytes; 1,234,567 tokens, hash `abc`",
        "8 windows of 32 tokens",
        "12 steps of 2 sequences of 32 tokens", "adamw, peak 0.003 (recipe), wsd-s",
        "| 64,000 | 2.0000 ± 0.0312 | 1.4427 |", "| 128,000 | 1.3863 | 1.0000 |",
    ):  # fmt: skip
        assert said in card
    assert "read by itself" not in card


def test_sources_are_named_without_this_machines_paths(tmp_path: Path) -> None:
    given = ("stdlib", "hf:org/name:en", f"hf:{tmp_path}", f"{tmp_path}/a.jsonl")
    found = [_public(data, "Python's") for data in given]
    assert found == ["Python's", "hf:org/name:en", tmp_path.name, "a.jsonl"]


@pytest.mark.slow
def test_it_is_exported_with_the_model(finished: Path) -> None:
    for trial in finished.glob("variants/*/seed0"):
        card = (trial / "model" / "README.md").read_text()
        for budget in json.loads((trial / "result.json").read_text())["budgets"]:
            assert (
                f"| {budget['tokens']:,} | {budget['loss']:.4f} ± {budget['stderr']:.4f} |" in card
            )
