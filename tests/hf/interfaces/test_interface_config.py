"""The fields of ``PreTrainedConfig``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interface_table import IDS, complete, refuses, runs, small, words
from transformers import AutoModelForCausalLM, PreTrainedConfig

from softmap.hf import SoftmapConfig, SoftmapForCausalLM, SoftmapForSequenceClassification


def classes(**fields: Any) -> int:
    return small(cls=SoftmapForSequenceClassification, **fields).score.out_features


def regression() -> None:
    """Mean squared error, though the labels are whole numbers."""
    fields = {"num_labels": 1, "problem_type": "regression"}
    model = small(cls=SoftmapForSequenceClassification, **fields)
    out = model(IDS, labels=torch.tensor([1.0, 3.0], dtype=torch.float64))
    wanted = ((out.logits[:, 0] - torch.tensor([1.0, 3.0])) ** 2).mean()
    torch.testing.assert_close(out.loss, wanted)


def generation() -> None:
    config = SoftmapConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=4, top_k=7)
    assert SoftmapForCausalLM(config).generation_config.top_k == 7
    assert "_generation" not in config.to_dict() and "top_k" not in config.to_dict()


HONOURED: dict[str, Callable[[], Any]] = {
    "output_hidden_states": lambda: len(small(output_hidden_states=True)(IDS).hidden_states) == 3,
    "output_attentions": lambda: len(small(output_attentions=True)(IDS).attentions) == 2,
    "return_dict": lambda: isinstance(small(return_dict=False)(IDS), tuple),
    "dtype": lambda: (
        AutoModelForCausalLM.from_config(small(dtype="bfloat16").config).dtype == torch.bfloat16
    ),
    "torch_dtype": lambda: SoftmapConfig(torch_dtype="float16").dtype == torch.float16,
    "id2label": lambda: classes(id2label={0: "a", 1: "b", 2: "c"}) == 3,
    "label2id": lambda: SoftmapConfig(id2label={0: "a"}, label2id={"a": 0}).label2id == {"a": 0},
    "num_labels": lambda: classes(num_labels=5) == 5,
    "problem_type": lambda: regression() is None,
    "name_or_path": lambda: SoftmapConfig(name_or_path="here").name_or_path == "here",
    "architectures": lambda: SoftmapConfig(architectures=["X"]).architectures == ["X"],
    "options of generate": lambda: generation() is None,
    "sizes that follow": lambda: (
        (c := SoftmapConfig(hidden_size=24, num_attention_heads=4))
        and (c.num_key_value_heads, c.head_dim) == (4, 6)
    ),
    "attn_implementation": lambda: small(attn_implementation="eager") is not None,
}
REFUSED: dict[str, dict[str, Any]] = {
    "is_encoder_decoder": {"is_encoder_decoder": True},
    "chunk_size_feed_forward": {"chunk_size_feed_forward": 2},
    "per_layer_config": {"per_layer_config": {0: {"head_dim": 4}}},
    "quantization_config": {"quantization_config": {"quant_method": "bitsandbytes"}},
    "another model": {"model_type": "llama"},
    "another problem": {"problem_type": "poetry"},
    "a kernel of theirs": {"attn_implementation": "flash_attention_2"},
    "sdpa": {"attn_implementation": "sdpa"},
    "experts": {"experts_implementation": "grouped_mm"},
    **{
        name: {name: True}
        for name in words(
            "is_decoder add_cross_attention torchscript pruned_heads rope_scaling "
            "rope_parameters tie_last_hidden_states loss_type to_dict base_model_tp_plan "
            "sliding_window attention_dropout layer_types is_causal"
        )
    },
}
UNCONCERNED = {"transformers_version": "written by them, read by nobody"}


def test_every_name_is_decided() -> None:
    found = vars(PreTrainedConfig).items()
    settable = {n for n, v in found if isinstance(v, property) and v.fset and n[0] != "_"}
    names = settable | {f.name for f in dataclasses.fields(PreTrainedConfig)}
    complete(names, HONOURED, REFUSED, UNCONCERNED)


@runs(HONOURED)
def test_honoured(name: str) -> None:
    assert HONOURED[name]()


@runs(REFUSED)
def test_refused(name: str) -> None:
    refuses(lambda: small(**REFUSED[name]))


def test_names_of_both_are_saved(tmp_path: Path) -> None:
    """A configuration comes back as it was saved, twice over."""
    SoftmapConfig(num_labels=3, output_hidden_states=True, top_k=9).save_pretrained(tmp_path)
    once = SoftmapConfig.from_pretrained(tmp_path)
    assert once.num_labels == 3 and once.output_hidden_states
    assert SoftmapConfig.from_dict(once.to_dict()).to_dict() == once.to_dict()
