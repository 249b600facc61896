"""What cannot be swapped is named in one line, and the model stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM, swap

Build = Callable[..., Any]
IDS = torch.tensor([[3, 4, 5, 6]])


class Mine(LlamaForCausalLM):
    """A class of one's own: its methods would be lost."""


SMALL = {
    "vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
    "intermediate_size": 8,
}  # fmt: skip
MODELS: dict[str, Callable[[], Any]] = {
    "another family": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9)
    ),
    "encoder and decoder": lambda: T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, vocab_size=9)
    ),
    "own class": lambda: Mine(LlamaConfig(**SMALL)),
    "softmap's": lambda: SoftmapForCausalLM(SoftmapConfig(**SMALL)),
    "adapted": lambda: get_peft_model(
        LlamaForCausalLM(LlamaConfig(**SMALL)),
        LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ),
    "a module": lambda: nn.Linear(2, 2),
    "nothing": lambda: None,
}


@pytest.mark.parametrize("kind", MODELS)
def test_models(kind: str) -> None:
    model = MODELS[kind]()
    with pytest.raises(SoftmapError, match="Llama, Mistral, Qwen2, Qwen3, GPTNeoX itself"):
        swap(model, "diff2")


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("nothing", "unknown variant"),
        ("sas", "sets attention_skip=0.0"),
        ("parallel", "sets block='parallel'"),
        ("transformer", "sets norm='layernorm'"),
        ("dcmha(backbone=dcpythia)", "sets block='parallel'"),
        ("transformer++(position=learned)", "adds learned positions"),
        ("transformer++(rope_theta=5)", "sets rope_theta=5"),
        ("transformer++(value=identity)", "sets value='identity'"),
    ],
)
def test_variants(family: Build, variant: str, words: str) -> None:
    refused(family(), words, variant=variant)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([3], "from -3 to 2"),
        ([-4], "from -3 to 2"),
        ([], "at least one"),
        ([True], "from -3 to 2"),
        ([1.0], "from -3 to 2"),
        (torch.tensor([True, False, True]), "from -3 to 2"),
        (np.array([1.0]), "from -3 to 2"),
        (1, "a list of numbers"),
        ("01", "a list of numbers"),
        ([0, -3], "each layer once"),
    ],
)
def test_layers(family: Build, layers: Any, words: str) -> None:
    refused(family(), words, layers=layers)


@pytest.mark.parametrize("layers", [np.array([0, -1]), torch.tensor([2, 0]), {np.int64(0), 2}])
def test_numbers_of_other_libraries(family: Build, layers: Any) -> None:
    config = swap(family(), "diff2", layers).config
    assert config.softmap[0]["layers"] == [0, 2]
    assert json.loads(config.to_json_string())["softmap"][0]["layers"] == [0, 2]


def test_hooks_that_stay(family: Build) -> None:
    """On what is kept, and transformers' own, which the new attention gets, too."""
    model = family()
    model.set_attn_implementation("eager")
    model(IDS, output_attentions=True)
    seen: list[Any] = []
    for module in (model.model.layers[1], model.model.layers[1].self_attn.o_proj):
        module.register_forward_hook(lambda module, *_: seen.append(module))
    attentions = swap(model, "diff2")(IDS, output_attentions=True).attentions
    assert len(attentions) == 3
    assert seen == [model.model.layers[1].self_attn.attention.o_proj, model.model.layers[1]]


OWN = """
import torch
from torch import nn
from softmap import Edit
from softmap.variants import Parts, variant

class Own(Edit):
    def __init__(self, place):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(place.dim))  # nothing is wrong as long as it is zero

    def TENSORS(self, x):
        return {"c": (self.gain * x).sum(-1)EXPRESSION}

    def edit(self, m, band, t):
        return m * 1

@variant("own", "Own")
def own():
    return Parts(scores=[Own])
"""


@pytest.mark.parametrize("tensors", ["query_tensors", "key_tensors"])
@pytest.mark.parametrize("expression", [".cumsum(1)", " - x.std((0, 1)).sum()", ".nosuch()"])
def test_own_variants_whose_tensors_read_several_tokens(
    family: Build, tmp_path: Path, tensors: str, expression: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("TENSORS", tensors).replace("EXPRESSION", expression))
    words = "Own: cannot compute" if expression == ".nosuch()" else f"Own.{tensors}: 'c' reads more"
    refused(family().bfloat16(), words, variant=f"temperature+{file}:own", layers=[1])
    file.with_name("good.py").write_text(file.read_text().replace(expression, ""))
    swap(family().bfloat16(), f"{file.with_name('good.py')}:own", layers=[1])


def test_heads_that_do_not_fit(family: Build) -> None:
    refused(family(num_key_value_heads=1), "key/value heads", variant="diff")


def quantised(model: Any) -> None:
    class Linear4bit(nn.Linear):
        pass

    model.model.layers[1].self_attn.v_proj.__class__ = Linear4bit


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "quantised": (quantised, "layer 1: v_proj must be a plain nn.Linear .* found Linear4bit"),
    "own configuration": (
        lambda m: setattr(m.config, "__class__", type("Mine", (LlamaConfig,), {})),
        "must be LlamaConfig itself, found Mine",
    ),
    "layers of other sizes": (
        lambda m: setattr(m.config, "per_layer_config", {1: {"num_key_value_heads": 1}}),
        "found per_layer_config",
    ),
    "quantiser": (lambda m: setattr(m, "hf_quantizer", object()), "a quantised model"),
    "patched": (
        lambda m: setattr(m.model.layers[0].self_attn.q_proj, "forward", lambda x: x),
        "layer 0: q_proj must be a plain",
    ),
    "other scale": (
        lambda m: setattr(m.model.layers[1].self_attn, "scaling", 1.0),
        "layer 1: scores must be scaled .* 8\\^-0.5, found 1.0",
    ),
    "adapted": (
        lambda m: inject_adapter_in_model(LoraConfig(target_modules=["k_proj"]), m),
        "layer 0: k_proj must be a plain .* found Linear of peft.tuners.lora.layer",
    ),
    "eight bits": (
        lambda m: m.model.layers[2].self_attn.o_proj.to(torch.float8_e4m3fn),
        "layer 2: o_proj must hold floating weights of at least 16 bits",
    ),
    "meta": (lambda m: m.to("meta"), "layer 0: q_proj .* found meta"),
    "dropout": (
        lambda m: setattr(m.config, "attention_dropout", 0.1),
        "attention_dropout=0 .* found 0.1",
    ),
    "both ways": (lambda m: setattr(m.config, "is_causal", False), "is_causal=True"),
    "flash": (
        lambda m: setattr(m.config, "_attn_implementation_internal", "flash_attention_2"),
        "must be eager or sdpa .* found 'flash_attention_2'",
    ),
    "own attention": (
        lambda m: setattr(m.model.layers[1], "self_attn", nn.Identity()),
        "layer 1: expected LlamaAttention, found Identity",
    ),
    "offloaded": (
        lambda m: setattr(m.model.layers[1], "_hf_hook", object()),
        "managed by accelerate",
    ),
    "both ways in a layer": (
        lambda m: setattr(m.model.layers[1].self_attn, "is_causal", False),
        "layer 1: .* expected is_causal=True, found False",
    ),
    "dropout in a layer": (
        lambda m: setattr(m.model.layers[1].self_attn, "attention_dropout", 0.1),
        "layer 1: .* expected attention_dropout=0, found 0.1",
    ),
    "patched attention": (
        lambda m: setattr(m.model.layers[1].self_attn, "forward", lambda x: x),
        "layer 1: .* found forward of the attention",
    ),
    "hooked attention": (
        lambda m: m.model.layers[0].self_attn.register_forward_hook(lambda *_: None),
        "layer 0: .* found _forward_hooks of the attention",
    ),
    "hooked queries": (
        lambda m: m.model.layers[2].self_attn.q_proj.register_full_backward_hook(lambda *_: None),
        "layer 2: .* found _backward_hooks of q_proj",
    ),
    "hooked weight": (
        lambda m: m.model.layers[2].self_attn.q_proj.weight.register_hook(lambda grad: None),
        "layer 2: .* found hooks of q_proj.weight",
    ),
    "one layer twice": (
        lambda m: m.model.layers.__setitem__(2, m.model.layers[1]),
        r"layers \[1, 2\] are one module",
    ),
    "one attention twice": (
        lambda m: setattr(m.model.layers[2], "self_attn", m.model.layers[0].self_attn),
        r"layers \[0, 2\] are one module",
    ),
    "swapped": (lambda m: swap(m, "dcmha", [2]), "layer 2 is swapped already, for dcmha"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts(family: Build, change: str) -> None:
    model = family()
    make, words = CHANGES[change]
    make(model)
    refused(model, words)


def refused(model: Any, words: str, variant: Any = "diff2", layers: Any = None) -> None:
    """In one line, and nothing of the model is another afterwards."""
    before = {n: (id(m), type(m)) for n, m in model.named_modules()}
    config = (id(model.config), str(model.config))
    with pytest.raises(SoftmapError, match=words) as error:
        swap(model, variant, layers)
    assert "\n" not in str(error.value)
    assert {n: (id(m), type(m)) for n, m in model.named_modules()} == before
    assert (id(model.config), str(model.config)) == config


def test_impl(family: Build) -> None:
    with pytest.raises(SoftmapError, match="impl must be one of"):
        swap(family(), "diff2", impl="fast")
    model = swap(family(), "diff2", impl="reference")
    assert torch.allclose(model(IDS).logits, model(IDS).logits)
    assert model.model.layers[0].self_attn.attention.impl == "reference"


FORWARD: dict[str, tuple[dict[str, Any], str]] = {
    "custom mask": ({"attention_mask": torch.ones(1, 1, 4, 4)}, "the mask must be"),
    "masks by kind": ({"attention_mask": {"full_attention": None}}, "the mask must be a tensor"),
    "short mask": ({"attention_mask": torch.ones(1, 3, dtype=torch.long)}, "the mask must be"),
    "numbers to add": ({"attention_mask": torch.zeros(1, 4)}, "the mask must be"),
    "other positions": ({"position_ids": torch.tensor([[3, 4, 5, 6]])}, "position_ids must"),
    "typo": ({"atention_mask": None}, "no argument 'atention_mask'"),
    "older name": ({"num_logits_to_keep": 1}, "did you mean 'logits_to_keep'"),
    "both ways": ({"is_causal": False}, "every map is causal"),
    "nothing": ({"input_ids": None}, "exactly one of"),
    "documents with a cache": (
        {"documents": torch.tensor([[0, 0, 1, 1]]), "use_cache": True},
        "one document",
    ),
    "documents with padding": (
        {
            "documents": torch.tensor([[0, 0, 1, 1]]),
            "attention_mask": torch.tensor([[0, 1, 1, 1]]),
        },
        "need every layer to be swapped",
    ),
    "maps of sdpa": ({"output_attentions": True}, "output_attentions needs"),
}


@pytest.mark.parametrize("what", FORWARD)
def test_forward(swapped: Build, what: str) -> None:
    given, words = FORWARD[what]
    with pytest.raises(SoftmapError, match=words):
        swapped("diff2", layers=[1])(**{"input_ids": IDS, **given})


def test_other_attention_afterwards(swapped: Build) -> None:
    with pytest.raises(SoftmapError, match="must be eager or sdpa"):
        swapped("diff2").set_attn_implementation("flex_attention")


def test_dropout_afterwards(swapped: Build) -> None:
    model = swapped("diff2", layers=[1])
    model.config.attention_dropout = 0.1
    with pytest.raises(SoftmapError, match="attention_dropout=0"):
        model(IDS)


def test_a_layer_alone(swapped: Build) -> None:
    with pytest.raises(SoftmapError, match="expected a call of the model"):
        swapped("diff2").model.layers[0](torch.zeros(1, 4, 32).double())


def test_a_mask_that_changes_its_mind(swapped: Build) -> None:
    model = swapped("diff2", layers=[2])
    cache = model(IDS, use_cache=True).past_key_values
    mask = torch.tensor([[0, 1, 1, 1, 1]])
    with pytest.raises(SoftmapError, match="cached tokens"):
        model(IDS[:, :1], past_key_values=cache, attention_mask=mask)
