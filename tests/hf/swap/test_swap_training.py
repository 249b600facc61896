"""Training a swapped model: gradients, checkpointing, padding, the Trainer and adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM

pytestmark = pytest.mark.slow

IDS = torch.randint(3, 31, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
LABELS = IDS.masked_fill(MASK == 0, -100)
Build = Callable[..., Any]


def gradients(model: Any, **options: Any) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    model(**options, labels=LABELS if options["input_ids"].shape[0] == 2 else None).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["Llama", "GPTNeoX"])
def test_checkpointing_changes_no_gradient(swapped: Build, name: str, reentrant: bool) -> None:
    model = swapped("diff+dcmha", name, [0, 1])
    expected = gradients(model, input_ids=IDS, attention_mask=MASK)
    assert all(p.grad is not None for p in model.parameters())
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, input_ids=IDS, attention_mask=MASK)
    assert all(torch.allclose(found[n], g) for n, g in expected.items())
    with pytest.raises(SoftmapError, match="feed a cache twice"):
        model(IDS, past_key_values=model.base_model.new_cache())


def test_padding_gives_no_gradient(swapped: Build) -> None:
    model = swapped("diff2", layers=[1])
    padded = gradients(model, input_ids=IDS, attention_mask=MASK)
    other = IDS.masked_fill(MASK == 0, 17)
    again = gradients(model, input_ids=other, attention_mask=MASK)
    assert all(torch.allclose(again[n], g, atol=1e-6) for n, g in padded.items())


def test_trainer(swapped: Build, tmp_path: Path) -> None:
    """One step, no weight decay for an edit's head mix, and the checkpoint is the model."""
    model = swapped("talking-heads", layers=[1]).float()
    data = [{"input_ids": row, "labels": row} for row in IDS.repeat(2, 1)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True,
        save_steps=1, per_device_train_batch_size=2,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data)
    decayed = trainer.get_decay_parameter_names(model)
    assert not [name for name in decayed if name.endswith("mix")]
    assert "model.layers.1.self_attn.attention.q_proj.weight" in decayed
    own = SoftmapForCausalLM(SoftmapConfig(vocab_size=31, hidden_size=16, num_attention_heads=2))
    assert "model.embed_tokens.weight" in trainer.get_decay_parameter_names(model)
    assert "model.embed_tokens.weight" not in Trainer(own, arguments).get_decay_parameter_names(own)
    trainer.train()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-1").eval()
    assert torch.equal(loaded(IDS).logits, model.eval()(IDS).logits)


@pytest.mark.parametrize(("name", "layers"), [("Llama", [1]), ("Llama", None), ("GPTNeoX", [0])])
def test_a_trainer_resumes(swapped: Build, tmp_path: Path, name: str, layers: Any) -> None:
    """A checkpoint is read whole into a model that was made anew."""

    def trainer(model: Any, steps: int) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=steps, use_cpu=True, report_to=[],
            disable_tqdm=True, save_steps=1, per_device_train_batch_size=2, learning_rate=0.01,
        )  # fmt: skip
        data = [{"input_ids": row, "labels": row} for row in IDS.repeat(2, 1)]
        return Trainer(model, arguments, train_dataset=data)

    trained = swapped("diff2", name, layers).float()
    trainer(trained, 1).train()
    resumed = trainer(swapped("diff2", name, layers).float(), 1)
    resumed.train(resume_from_checkpoint=True)
    found = resumed.model.state_dict()
    assert [n for n, t in trained.state_dict().items() if not torch.equal(t, found[n])] == []
    resumed.args.max_steps = 2
    assert resumed.train(resume_from_checkpoint=True).global_step == 2


def test_adapters(swapped: Build) -> None:
    model = swapped("diff2", layers=[1])
    expected = model(IDS).logits
    names = ["q_proj", "v_proj"]
    adapted = get_peft_model(model, LoraConfig(target_modules=names, task_type="CAUSAL_LM"))
    assert torch.allclose(adapted.eval()(IDS).logits, expected)
    assert "layers.1.self_attn.attention.q_proj.lora_A" in str(dict(adapted.named_parameters()))


def test_adapters_of_all_linear_maps(swapped: Build, tmp_path: Path) -> None:
    """PEFT has no default targets for these types: the ones that need no names."""
    model = swapped("dcmha", "GPTNeoX", [1])
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model.save_pretrained(tmp_path / "base")
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    names = str([name for name, _ in adapted.named_modules() if name.endswith("lora_A")])
    assert "layers.1.attention.attention.v_proj" in names and "query_key_value" in names
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert torch.allclose(again(IDS).logits, adapted(IDS).logits)


def test_prefixes_are_refused(swapped: Build) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapted = get_peft_model(swapped("diff2", layers=[1]).float(), config)
    with pytest.raises(SoftmapError, match="past_key_values must be"):
        adapted(IDS)
