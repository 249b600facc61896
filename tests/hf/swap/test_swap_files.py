"""What is saved is what is loaded, by those who know softmap; others are told."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from softmap.errors import SoftmapError
from softmap.hf import SoftmapForCausalLM, swap

IDS = torch.randint(3, 31, (2, 9), generator=torch.Generator().manual_seed(0))
Build = Callable[..., Any]


def same(one: Any, other: Any) -> bool:
    """Whether two models say the same; their tensors lie elsewhere, which rounds otherwise."""
    a, b = (model(IDS) for model in (one, other))
    return torch.allclose(a[0], b[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "GPTNeoX"])
def test_saved_and_loaded(swapped: Build, tmp_path: Path, name: str) -> None:
    """Two variants in one model, the others its own."""
    model = swap(swapped("diff2", name, [0]), "dcmha", [-1])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert [e["variant"] for e in loaded.config.softmap] == ["diff2", "dcmha"]
    assert same(loaded, model)
    config = AutoConfig.from_pretrained(tmp_path)
    assert getattr(config, "layer_types", None) == getattr(model.config, "layer_types", None)
    base = AutoModel.from_pretrained(tmp_path)
    assert same(base, model.base_model)


def test_copies(swapped: Build) -> None:
    model = swapped("diff2", layers=[1])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(other, model)


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_classifiers(family: Build, tmp_path: Path, name: str) -> None:
    model = family(name, "ForSequenceClassification", num_labels=3)
    before = model(IDS).logits
    swap(model, "temperature")
    assert torch.allclose(model(IDS).logits, before, atol=1e-5)
    swapped = swap(family(name, "ForSequenceClassification", num_labels=3), "diff2", [1])
    swapped.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert same(loaded, swapped)


@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_a_base_model_may_be_swapped_inside_of_its_head(
    family: Build, tmp_path: Path, name: str
) -> None:
    """The head is saved with the configuration that it shares."""
    model = family(name)
    swap(model.base_model, "diff2", [1])
    cached = model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(cached, model.generate(IDS, max_new_tokens=4, use_cache=False))
    model.save_pretrained(tmp_path)
    assert same(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    assert same(AutoModel.from_pretrained(tmp_path), model.base_model)
    assert AutoConfig.from_pretrained(tmp_path).architectures == [f"Softmap{name}ForCausalLM"]
    assert same(swap(model, "dcmha", [0]), model)
    assert type(model).__name__ == f"Softmap{name}ForCausalLM"


def test_a_loaded_model_is_swapped_and_saved(family: Build, tmp_path: Path) -> None:
    """In the files of GPT-NeoX the head has another name, which a swapped model does not take."""
    family("GPTNeoX").save_pretrained(tmp_path)
    model = swap(transformers.GPTNeoXForCausalLM.from_pretrained(tmp_path), "diff2", [1])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(loaded, model)
    loaded.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "GPTNeoX"])
def test_never_read_as_a_plain_model(swapped: Build, tmp_path: Path, name: str) -> None:
    """Not even for a variant that adds no weight. What reads any file for its version may."""
    swapped("transformer++", name, [1]).save_pretrained(tmp_path)
    for plain in (f"{name}ForCausalLM", f"{name}Model", f"{name}Config"):
        with pytest.raises(Exception, match="some layers are softmap's"):
            getattr(transformers, plain).from_pretrained(tmp_path)
    config = transformers.PreTrainedConfig.from_json_file(tmp_path / "config.json")
    assert config.transformers_version == transformers.__version__
    with pytest.raises(SoftmapError, match="AutoModelForCausalLM"):
        SoftmapForCausalLM.from_pretrained(tmp_path)


def test_without_softmap_it_is_an_unknown_model(
    swapped: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped("diff2").save_pretrained(tmp_path)
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", {})  # as before `import softmap.hf`
    with pytest.raises(ValueError, match="softmap-llama"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "mismatched"])
def test_loading_is_strict(swapped: Build, tmp_path: Path, change: str) -> None:
    swapped("diff2").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    key = "model.layers.0.self_attn.attention.edits.0.to_lambda.weight"
    value = weights.pop(key)
    if change == "unexpected":
        weights |= {key: value, f"{key}s": value.clone()}
    if change == "mismatched":
        weights[key] = value[:, 1:].clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SoftmapError, match=f"softmap-llama model: 1 {change} keys"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


CODE = """
from pathlib import Path
from softmap.variants import Parts, variant
(Path({marker!r}) / "ran").touch()

@variant("mine", "Mine")
def mine():
    return Parts(backbone={{"position": "none"}})
"""


def test_code_of_a_folder_runs_only_if_trusted(
    swapped: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(CODE.format(marker=str(tmp_path)))
    model = swap(swapped("diff2", layers=[0]), "own.py:mine", [2])
    model.save_pretrained("saved")
    shutil.move("saved", "moved")
    Path("own.py").unlink()
    Path("ran").unlink()
    with pytest.raises(SoftmapError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained("moved")
    assert not Path("ran").exists()
    loaded = AutoModelForCausalLM.from_pretrained("moved", trust_remote_code=True)
    assert same(loaded, model)
    loaded.save_pretrained("again")
    again = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
    assert same(again, model)


@pytest.mark.parametrize(
    ("softmap", "words"),
    [
        ("diff2", "must list"),
        ([{"variant": "diff2"}], "must have variant, layers, impl"),
        ([{"variant": "diff2", "layers": [3], "impl": "auto"}], "from 0 to 2"),
        ([{"variant": "diff2", "layers": [0, 0], "impl": "auto"}], "at most once"),
        ([{"variant": "diff2", "layers": [0], "impl": "fast"}], "impl must be one of"),
        ([{"variant": "sas", "layers": [0], "impl": "auto"}], "only the attention"),
        ([{"variant": None, "layers": [0], "impl": "auto"}], "variant"),
    ],
)
def test_a_damaged_configuration_is_refused(
    swapped: Build, tmp_path: Path, softmap: Any, words: str
) -> None:
    swapped("diff2").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"softmap": softmap}))
    with pytest.raises(ValueError, match=words):
        AutoConfig.from_pretrained(tmp_path)
