"""The model class: loss, Auto classes, files, strict loading."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM

IDS = torch.tensor([[3, 4, 5, 6, 9, 4], [5, 6, 3, 4, 7, 8]])


def test_loss_is_the_shifted_cross_entropy(make: Callable[..., Any]) -> None:
    model, labels = make(), IDS.clone()
    labels[0, :3] = -100
    out = model(IDS, labels=labels)
    logits, targets = out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    torch.testing.assert_close(out.loss.double(), cross_entropy(logits, targets), rtol=1e-5, atol=0)
    assert out.past_key_values is None and model(IDS).past_key_values is not None


def test_loss_divides_by_the_whole_batch(make: Callable[..., Any]) -> None:
    """``num_items_in_batch`` of the Trainer: the sum over micro-batches is the batch's mean."""
    model = make()
    whole = model(IDS, labels=IDS).loss
    parts = [
        model(IDS[n : n + 1], labels=IDS[n : n + 1], num_items_in_batch=torch.tensor(10)).loss
        for n in range(2)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_trainer_lowers_the_loss(make: Callable[..., Any], tmp_path: Path) -> None:
    model = make("diff").float()
    before = model(IDS, labels=IDS).loss.item()
    arguments = TrainingArguments(
        tmp_path, max_steps=20, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    Trainer(model, arguments, train_dataset=rows).train()
    assert model.eval()(IDS, labels=IDS).loss.item() < 0.5 * before


def test_only_the_logits_asked_for(make: Callable[..., Any]) -> None:
    model = make()
    whole = model(IDS).logits
    assert torch.equal(model(IDS, logits_to_keep=2).logits, whole[:, -2:])
    at = torch.tensor([0, 3])
    assert torch.equal(model(IDS, logits_to_keep=at).logits, whole[:, at])
    embeds = model.get_input_embeddings()(IDS)
    assert torch.equal(model(inputs_embeds=embeds).logits, whole)


def test_auto_classes_find_it(make: Callable[..., Any], tmp_path: Path) -> None:
    model = make(["diff", {"dcmha": {"rank": 1}}])
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, SoftmapConfig) and config.variant == "diff+dcmha(rank=1)"
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert isinstance(again, SoftmapForCausalLM)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    fresh = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in fresh.parameters()) == sum(p.numel() for p in model.parameters())


def test_defaults_are_saved_resolved(tmp_path: Path) -> None:
    SoftmapConfig(hidden_size=48, num_attention_heads=4).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["intermediate_size"] == 128 and saved["model_type"] == "softmap"


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_tied_or_not(make: Callable[..., Any], tmp_path: Path, tied: bool) -> None:
    model = make(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    again = SoftmapForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def damage(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), "1 missing keys, the first model.norm.weight"),
        (lambda w: w.update(extra=torch.ones(2)), "1 unexpected keys, the first extra"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(3)}),
            r"1 mismatched keys, the first \('model.norm.weight', .*3.*16",
        ),
    ],
)
def test_loading_is_strict(
    make: Callable[..., Any], tmp_path: Path, change: Any, message: str
) -> None:
    make("diff").save_pretrained(tmp_path)
    damage(tmp_path, change)
    with pytest.raises(SoftmapError, match=message) as error:
        SoftmapForCausalLM.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


def test_broken_files_are_one_line(make: Callable[..., Any], tmp_path: Path) -> None:
    make("diff").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SoftmapError, match=str(folder)) as error:
            SoftmapForCausalLM.from_pretrained(folder)
        assert "\n" not in str(error.value)


def test_weights_of_another_variant_are_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    make("dcmha").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"variant": "transformer++"}))
    with pytest.raises(SoftmapError, match=r"does not fit a transformer\+\+ model: .* unexpected"):
        SoftmapForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "dcmah"}, "unknown variant 'dcmah' .did you mean 'dcmha'"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size must be a multiple"),
        ({"backbone": {"nrom": "none"}}, "no backbone field 'nrom' .did you mean 'norm'"),
    ],
)
def test_bad_configuration(fields: dict, message: str) -> None:
    with pytest.raises(SoftmapError, match=message):
        SoftmapConfig(**fields)


@pytest.mark.parametrize("name", ["num_heads", "hiden_size", "mlp", "rope_theta"])
def test_unknown_fields_are_refused(name: str) -> None:
    with pytest.raises(SoftmapError, match=f"no configuration field '{name}'.*num_attention_heads"):
        SoftmapConfig(**{name: 4})
    if name == "hiden_size":
        with pytest.raises(SoftmapError, match="did you mean 'hidden_size'"):
            SoftmapConfig(**{name: 4})


def test_fields_of_transformers_still_work(tmp_path: Path) -> None:
    own = {"output_attentions": False, "num_labels": 3, "torch_dtype": "float32", "max_length": 9}
    own |= {"attn_implementation": "eager", "_name_or_path": "here", "architectures": ["X"]}
    config = SoftmapConfig(hidden_size=24, num_attention_heads=4, **own)
    assert config.dtype == torch.float32 and config.num_labels == 3
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).hidden_size == 24
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"hidden_sizes": 24}))
    with pytest.raises(SoftmapError, match="no configuration field 'hidden_sizes'"):
        AutoConfig.from_pretrained(tmp_path)


def test_folders_saved_with_scalars_still_load(make: Callable[..., Any], tmp_path: Path) -> None:
    """FIRE's c and multiplier had the shape () before FSDP2 wanted an axis to shard."""
    model = make("dape(bias=fire)")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    saved = load_file(file)
    scalars = [n for n in saved if n.endswith((".c", ".multiplier"))]
    assert len(scalars) == 2 * model.config.num_hidden_layers
    assert all(saved[n].shape == (1,) for n in scalars)
    save_file(saved | {n: saved[n].squeeze(0) for n in scalars}, file, {"format": "pt"})
    again = SoftmapForCausalLM.from_pretrained(tmp_path)
    for name, p in model.named_parameters():
        assert torch.equal(again.get_parameter(name), p), name
