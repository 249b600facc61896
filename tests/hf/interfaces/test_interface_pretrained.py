"""The class attributes and public methods of ``PreTrainedModel``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interface_table import IDS, complete, refuses, runs, small, words
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from softmap.errors import SoftmapError
from softmap.hf import SoftmapForCausalLM, SoftmapForSequenceClassification, SoftmapModel

CLASSES = {
    SoftmapModel: AutoModel,
    SoftmapForCausalLM: AutoModelForCausalLM,
    SoftmapForSequenceClassification: AutoModelForSequenceClassification,
}
# Flags, and what they must say of softmap.
FLAGS = {
    "_can_compile_fullgraph": False, "_can_record_outputs": None, "_is_stateful": False,
    "_supports_attention_backend": False, "_supports_context_parallel": False,
    "_supports_flash_attn": False, "_supports_flex_attn": False, "_supports_sdpa": False,
    "_keep_in_fp32_modules": None, "_keep_in_fp32_modules_strict": None,
    "_keys_to_ignore_on_load_missing": None, "_keys_to_ignore_on_load_unexpected": None,
    "_keys_to_ignore_on_save": None, "_no_split_modules": ["Block"],
    "_skip_keys_device_placement": ["past_key_values"], "base_model_prefix": "model",
    "main_input_name": "input_ids", "input_modalities": "text", "model_tags": None,
    "_tied_weights_keys": {"lm_head.weight": "model.embed_tokens.weight"},
    "supports_gradient_checkpointing": True,
}  # fmt: skip


def embeddings(model: Any) -> None:
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    assert model.lm_head.weight is model.model.embed_tokens.weight
    other = nn.Embedding(17, 16).double()
    model.set_input_embeddings(other)
    model.tie_weights()
    assert model.model.embed_tokens is other and model.lm_head.weight is other.weight
    model.set_output_embeddings(head := nn.Linear(16, 17, bias=False).double())
    assert model.lm_head is head


def resized(model: Any) -> None:
    before = model(IDS).logits
    model.resize_token_embeddings(23, mean_resizing=False)
    torch.testing.assert_close(model(IDS).logits[..., :17], before)
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.config.vocab_size == 23
    new = model.get_input_embeddings().weight[17:]
    assert 0.1 < new.std() < 0.5  # 1 / sqrt(16)
    assert model(IDS + 13, labels=IDS + 13).loss.isfinite()


def checkpointed(model: Any) -> None:
    """The gradients stay; the cache goes; every second layer alone if asked."""
    model.train()(IDS, labels=IDS).loss.backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    for options in ({"use_reentrant": True}, {"use_reentrant": False}, None):
        model.zero_grad()
        model.gradient_checkpointing_enable(options)
        assert model.is_gradient_checkpointing and model.is_activation_checkpointing
        out = model(IDS, labels=IDS, use_cache=True)
        assert out.past_key_values is None
        out.loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, plain[name], msg=name)
    cache = small()(IDS).past_key_values
    refuses(lambda: model(IDS, past_key_values=cache), "would feed a cache twice")
    model.activation_checkpointing_enable(every_n_layers=2)
    assert [layer.gradient_checkpointing for layer in model.model.layers] == [True, False]
    model.gradient_checkpointing_disable()
    assert not model.is_activation_checkpointing
    assert model.eval()(IDS, use_cache=True).past_key_values is not None


def parts(model: Any) -> None:
    assert model.base_model is model.get_decoder() is model.model
    assert model.can_generate() and not model.model.can_generate()
    assert model.dtype == torch.float64 and model.device == torch.device("cpu")
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert model.get_memory_footprint() >= 8 * model.num_parameters()
    assert not model.supports_context_parallel and not model.supports_tp_plan
    assert model(**{**model.dummy_inputs, "input_ids": IDS}).logits.shape == (2, 7, 17)
    assert model.loss_function.__name__ == "ForCausalLMLoss"


def frozen(model: Any) -> None:
    """Adapters on frozen weights: the gradient still reaches the embeddings' output."""
    model.requires_grad_(False)
    model.enable_input_require_grads()
    assert model(IDS).logits.requires_grad
    model.disable_input_require_grads()
    assert not model(IDS).logits.requires_grad


HONOURED: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(
        words(
            "get_input_embeddings set_input_embeddings get_output_embeddings "
            "set_output_embeddings tie_weights get_expanded_tied_weights_keys"
        ),
        embeddings,
    ),
    "resize_token_embeddings": resized,
    **dict.fromkeys(
        words(
            "activation_checkpointing_enable activation_checkpointing_disable "
            "gradient_checkpointing_enable gradient_checkpointing_disable "
            "is_activation_checkpointing is_gradient_checkpointing"
        ),
        checkpointed,
    ),
    **dict.fromkeys(
        words(
            "base_model get_decoder can_generate dtype device num_parameters "
            "get_memory_footprint supports_context_parallel supports_tp_plan dummy_inputs "
            "loss_function"
        ),
        parts,
    ),
    **dict.fromkeys(["enable_input_require_grads", "disable_input_require_grads"], frozen),
}
REFUSED: dict[str, Callable[[Any], Any]] = {
    "set_attn_implementation": lambda m: m.set_attn_implementation("sdpa"),
    "get_position_embeddings": lambda m: m.get_position_embeddings(),
    "resize_position_embeddings": lambda m: m.resize_position_embeddings(64),
}
SAVING = ["from_pretrained", "save_pretrained", "config_class"]  # below
UNCONCERNED = {
    **dict.fromkeys(SAVING, "has tests of its own, below and in test_hf_model.py"),
    **dict.fromkeys(FLAGS, "a flag, compared below"),
    **dict.fromkeys(
        words(
            "active_adapters add_adapter delete_adapter disable_adapters enable_adapters "
            "enable_peft_hotswap get_adapter_state_dict load_adapter set_adapter"
        ),
        "PEFT's, ecosystem/test_hf_peft.py",
    ),
    **dict.fromkeys(
        words(
            "barrier_after_gathered_checkpoint_save ep_plan fsdp_plan fsdp_size "
            "gather_sharded_state_dict_for_save init_parallel_plans "
            "is_distributed_loading_by_transformers maybe_distribute_model pp_plan "
            "prepare_distribute_model save_distributed_checkpoint should_save_on_this_rank "
            "supports_pp_plan tp_plan tp_size"
        ),
        "of several processes; from_pretrained refuses a tp_plan",
    ),
    **dict.fromkeys(
        words(
            "_can_set_attn_implementation _can_set_experts_implementation "
            "can_record_outputs get_correct_attn_implementation "
            "get_correct_experts_implementation get_experts_implementation "
            "set_experts_implementation set_use_kernels use_kernels dequantize "
            "get_compiled_call is_backend_compatible"
        ),
        "of kernels, experts and quantized weights that softmap has not",
    ),
    **dict.fromkeys(
        words(
            "add_model_tags generation_config_class get_encoder set_encoder set_decoder "
            "get_init_context get_parameter_or_buffer init_weights initialize_weights "
            "is_custom_code is_remote_code mark_tied_weights_as_initialized "
            "named_non_persistent_buffers post_init push_to_hub register_for_auto_class "
            "retrieve_modules_from_names warn_if_padding_and_no_attention_mask"
        ),
        "transformers' own, used as it is",
    ),
}


def test_every_name_is_decided() -> None:
    flags = ("_supports", "_can", "_keep", "_keys", "_no_split", "_skip", "_tied", "_is_stateful")
    names = set(dir(PreTrainedModel)) - set(dir(nn.Module))
    names = {n for n in names if not n.startswith("_") or n.startswith(flags)}
    complete(names, HONOURED, REFUSED, UNCONCERNED)


@runs(FLAGS)
def test_flags(name: str) -> None:
    assert getattr(SoftmapForCausalLM, name) == FLAGS[name]


@pytest.mark.parametrize("check", sorted(set(HONOURED.values()), key=lambda f: f.__name__))
def test_honoured(check: Callable) -> None:
    check(small())


@runs(REFUSED)
def test_refused(name: str) -> None:
    refuses(lambda: REFUSED[name](small()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("saved", CLASSES)
def test_bodies_load_into_any_class(saved: Any, tied: bool, tmp_path: Path) -> None:
    """The decoder is the file's; a head that the file lacks starts anew, at 1/sqrt(D)."""
    model = small("sas", cls=saved, tie_word_embeddings=tied, num_labels=3)
    model.save_pretrained(tmp_path)
    expected = model.base_model(IDS).last_hidden_state
    for cls, auto in CLASSES.items():
        again = auto.from_pretrained(tmp_path, dtype=torch.float64)
        assert type(again) is cls
        torch.testing.assert_close(again.base_model(IDS).last_hidden_state, expected)
        for name in ("lm_head", "score"):
            if hasattr(again, name):
                assert 0.1 < getattr(again, name).weight.std() < 0.6


@pytest.mark.parametrize("cls", [SoftmapForCausalLM, SoftmapForSequenceClassification])
def test_a_classs_own_file_must_hold_its_head(cls: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    small(cls=cls, tie_word_embeddings=False).save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    kept = {n: t for n, t in held.items() if n.startswith("model.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SoftmapError, match=r"1 missing keys, the first (lm_head|score).weight"):
        cls.from_pretrained(tmp_path)


def test_a_head_of_another_size_starts_anew_when_asked(tmp_path: Path) -> None:
    cls = SoftmapForSequenceClassification
    small(cls=cls, num_labels=3).save_pretrained(tmp_path)
    with pytest.raises(SoftmapError, match=r"1 mismatched keys, the first .'score.weight'"):
        cls.from_pretrained(tmp_path, num_labels=5)
    again = cls.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert again.score.weight.shape == (5, 16)


BUFFERED = {
    "slopes": {"variant": "alibi"},
    "orthogonal matrices": {"variant": "transformer++", "backbone": {"value": "orthogonal"}},
}


@pytest.mark.parametrize("what", BUFFERED)
def test_buffers_come_back(what: str, tmp_path: Path) -> None:
    """Loading starts without memory: what constructors computed must be in the file."""
    model = small(**BUFFERED[what])
    assert dict(model.named_buffers())
    model.save_pretrained(tmp_path)
    again = SoftmapForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert dict(again.named_buffers()).keys() == dict(model.named_buffers()).keys()
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
    half = SoftmapForCausalLM.from_pretrained(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "option",
    [{"quantization_config": {"quant_method": "bitsandbytes"}}, {"tp_plan": "auto"},
     {"attn_implementation": "flash_attention_2"}, {"use_kernels": True}],
)  # fmt: skip
def test_loading_refuses(option: dict, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    refuses(lambda: SoftmapForCausalLM.from_pretrained(tmp_path, **option), next(iter(option)))
