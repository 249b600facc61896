"""Text from a run or a folder; folders that are neither are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from softmap.errors import SoftmapError
from softmap.hf import swap
from softmap.lab.generate import generate, model_folder


def test_a_prompt_is_continued_and_the_seed_decides(finished: Path) -> None:
    folder = model_folder(finished, "diff")
    text = generate(folder, "alpha ", max_new_tokens=12, seed=1)
    assert text.startswith("alpha ") and len(text) > len("alpha ")
    assert text == generate(folder, "alpha ", max_new_tokens=12, seed=1)
    assert len({generate(folder, "alpha ", max_new_tokens=12, seed=s) for s in range(4)}) > 1


def test_temperature_zero_is_greedy(finished: Path) -> None:
    folder = model_folder(finished)
    assert folder.parts[-3] == "transformerpp"
    greedy = {generate(folder, "beta", max_new_tokens=8, temperature=0, seed=s) for s in (0, 1)}
    assert len(greedy) == 1


def test_a_model_of_another_family_with_swapped_attention(finished: Path, tmp_path: Path) -> None:
    own = model_folder(finished)
    vocab = json.loads((own / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, num_attention_heads=2, **sizes))
    swap(model, "dcmha", layers=[1]).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(own / name, tmp_path)
    text = generate(model_folder(tmp_path), "alpha ", max_new_tokens=8, temperature=0)
    assert text.startswith("alpha ")


def test_an_empty_prompt_begins_a_document(finished: Path) -> None:
    assert generate(model_folder(finished), "", max_new_tokens=8)


def test_variants_and_seeds_that_are_not_there(finished: Path) -> None:
    with pytest.raises(SoftmapError, match=r"no finished 'dif' \(did you mean 'diff'"):
        model_folder(finished, "dif")
    with pytest.raises(SoftmapError, match="no finished 'diff' with seed 7"):
        model_folder(finished, "diff", 7)
    with pytest.raises(SoftmapError, match="need a run"):
        model_folder(model_folder(finished), "diff")


def test_folders_that_are_no_model(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(SoftmapError, match="found none"):
        model_folder(tmp_path / "nowhere")
    with pytest.raises(SoftmapError, match="found neither"):
        model_folder(tmp_path)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder(finished), tmp_path / "model"))


def test_a_foreign_model_is_named(copy: Path) -> None:
    (copy / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(SoftmapError, match="found model type 'gpt2'"):
        generate(copy, "a")


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_broken_weights_are_one_line(copy: Path, finished: Path, damage: str) -> None:
    weights = copy / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    elif damage == "gone":
        weights.unlink()
    else:
        shutil.copy(model_folder(finished, "diff") / "model.safetensors", weights)
    with pytest.raises(SoftmapError) as error:
        generate(copy, "a")
    assert str(copy) in str(error.value) and "\n" not in str(error.value)


NAN = float("nan")


@pytest.mark.parametrize(
    "bad", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": NAN}, {"top_k": 0}]
)
def test_numbers_out_of_range(finished: Path, bad: dict) -> None:
    with pytest.raises(SoftmapError, match=next(iter(bad))):
        generate(model_folder(finished), "a", **bad)


def test_a_folders_own_generation_settings_are_not_used(finished: Path, tmp_path: Path) -> None:
    folder = model_folder(finished)
    shutil.copytree(folder, copy := tmp_path / "copy")
    (copy / "checksums.json").unlink()
    (copy / "generation_config.json").write_text('{"num_beams": 99999999, "min_length": 30}')
    options = {"max_new_tokens": 4, "temperature": 0}
    assert generate(copy, "beta", **options) == generate(folder, "beta", **options)


def test_an_index_of_weights_names_files_beside_it(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder(finished), copy := tmp_path / "copy")
    (copy / "checksums.json").unlink()
    (copy / "model.safetensors").rename(tmp_path / "out.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../out.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SoftmapError, match="expected names of files beside it, found"):
        generate(copy, "beta")


@pytest.mark.parametrize("index", [[], {"weight_map": ["a"]}, {"weight_map": {"a": 3}}, "x", None])
def test_an_index_of_weights_that_is_none(finished: Path, tmp_path: Path, index: object) -> None:
    shutil.copytree(model_folder(finished), copy := tmp_path / "copy")
    (copy / "checksums.json").unlink()
    (copy / "model.safetensors").unlink()
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SoftmapError, match=r"index\.json: expected"):
        generate(copy, "beta")
