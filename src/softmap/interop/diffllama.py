"""transformers' DiffLlama (Differential attention V1 in a LLaMA) to a softmap model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DiffLlamaConfig, DiffLlamaForCausalLM

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.interop.causal_lm import fill_causal_lm
from softmap.interop.checkpoint import read_checkpoint
from softmap.interop.options import Only, OptionReader
from softmap.interop.source import Rule, WeightReader

WHAT = "diffllama"

ONLY = {
    "hidden_act": Only(("silu",), "softmap's gated MLP is SwiGLU"),
    "attention_dropout": Only((0, None), "softmap has no dropout"),
}
OLD_NAMES = ("rope_theta", "rope_scaling")  # of rope_parameters, before transformers 5
UNREAD = ("initializer_range", "lambda_std_dev", "pretraining_tp")  # of no effect on outputs
NORMS_AND_MLP = (
    *(Rule(f"mlp.{n}_proj.weight", "width dim", (f"mlp.{n}_proj.weight",)) for n in ("gate", "up")),
    Rule("mlp.down_proj.weight", "dim width", ("mlp.down_proj.weight",)),
    Rule("input_layernorm.weight", "dim", ("attention_norm.weight",)),
    Rule("post_attention_layernorm.weight", "dim", ("mlp_norm.weight",)),
    *(
        Rule(f"self_attn.lambda_{n}", "head", (f"attention.edits.0.lambda_{n}",))
        for n in ("q1", "k1", "q2", "k2")
    ),
)


def from_diffllama(source: DiffLlamaForCausalLM | str | Path) -> SoftmapForCausalLM:
    """Returns a softmap ``diff`` model with the logits of a DiffLlama, given as a model, its
    folder or Hub name.

    Their head p of H/2 subtracts the maps p and p + H/2, ours the neighbours 2p and 2p+1; with G
    key/value heads both maps' keys and the two halves of the value lie G/2 apart. Rows of the
    projections are permuted so that the same heads meet, for MHA and GQA. Their head norm has no
    weight; ours is one. Raises ``ValueError`` for options that softmap cannot represent (other RoPE
    types, other activations, dropout).
    """
    if isinstance(source, str | Path):
        config, state = read_checkpoint(source)
        if config.get("model_type") != WHAT:
            raise SoftmapError(
                f"{source}: model_type must be {WHAT}, found {config.get('model_type')!r}"
            )
        return load(state, config)
    if not isinstance(source, DiffLlamaForCausalLM):
        raise SoftmapError(
            "from_diffllama takes a DiffLlamaForCausalLM, a folder or a Hub name, "
            f"found {type(source).__name__}"
        )
    return load(source.state_dict(), source.config.to_dict())


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> SoftmapForCausalLM:
    """Returns the model of their weights by name and their configuration."""
    options = _options(config)
    sizes, source = _sizes(options), WeightReader(WHAT, state)
    weights = source.apply(_model_rules(), sizes)
    for n in range(options.count("num_hidden_layers")):
        theirs, ours = f"model.layers.{n}.", f"model.layers.{n}."
        weights |= source.apply(
            NORMS_AND_MLP + _attention_rules(options, sizes), sizes, theirs, ours
        )
        weights |= {ours + name: t for name, t in _constants(options, sizes).items()}
    head, embedding = None, "model.embed_tokens.weight"
    if options.flag("tie_word_embeddings"):
        source.copy("lm_head.weight", embedding, weights[embedding])
    else:
        head = source.take("lm_head.weight", sizes["vocab"], sizes["dim"])
    source.finish()
    with torch.device("meta"):
        model = SoftmapForCausalLM(_config(options, sizes))
    fill_causal_lm(model, weights, head, source.dtype)
    return model


def _options(config: Mapping[str, Any]) -> OptionReader:
    """Returns their fields with defaults and under today's names; refuses all others."""
    given = OptionReader(WHAT, config)
    given.published([*DiffLlamaConfig().to_dict(), *OLD_NAMES], UNREAD)
    try:
        filled = DiffLlamaConfig.from_dict(dict(config)).to_dict()
    except Exception as error:  # transformers' own checks raise many kinds
        raise SoftmapError(f"{WHAT}: transformers refuses this config: {error}") from error
    options = OptionReader(WHAT, filled)
    options.only(ONLY)
    return options


def _sizes(options: OptionReader) -> dict[str, int]:
    dim, heads = options.count("hidden_size"), options.count("num_attention_heads")
    groups = options.count("num_key_value_heads", heads)
    options.divisible(("num_attention_heads", heads), ("num_key_value_heads", groups))
    options.divisible(("num_key_value_heads", groups), ("2, the maps of a head", 2))
    head = options.count("head_dim", dim // heads)
    return {
        "vocab": options.count("vocab_size"),
        "dim": dim,
        "heads": heads,
        "groups": groups,
        "head": head,
        "q": heads * head,
        "kv": groups * head,
        "width": options.count("intermediate_size"),
    }


def _model_rules() -> tuple[Rule, ...]:
    return (
        Rule("model.embed_tokens.weight", "vocab dim", ("model.embed_tokens.weight",)),
        Rule("model.norm.weight", "dim", ("model.norm.weight",)),
    )


def _attention_rules(options: OptionReader, sizes: Mapping[str, int]) -> tuple[Rule, ...]:
    """Returns the rules for q, k and v with permuted rows; the outputs' order is the same, so
    o_proj stays.
    """
    rules = []
    for part in ("weight", "bias") if options.flag("attention_bias") else ("weight",):
        columns = {"weight": " dim", "bias": ""}[part]
        for name, rows in (("q", "q"), ("k", "kv"), ("v", "kv")):
            theirs, ours = f"self_attn.{name}_proj.{part}", f"attention.{name}_proj.{part}"
            how = lambda t: (neighbours(t, sizes["head"]),)  # noqa: E731
            rules.append(Rule(theirs, rows + columns, (ours,), how))
        shape = {"weight": "dim q", "bias": "dim"}[part]
        rules.append(Rule(f"self_attn.o_proj.{part}", shape, (f"attention.o_proj.{part}",)))
    return tuple(rules)


def neighbours(t: Tensor, head_dim: int) -> Tensor:
    """Returns rows of heads 0 .. n-1 in the order 0, n/2, 1, n/2 + 1, ...

    Query heads p and p + H/2 become the maps 2p and 2p+1 of our head p. Key heads g and g + G/2,
    which those two maps read, become our keys 2g and 2g+1; and the value heads g and g + G/2, whose
    outputs they concatenate, become the two halves of our value g of twice the width.
    """
    return t.unflatten(0, (2, -1, head_dim)).transpose(0, 1).flatten(0, 2)


def _constants(options: OptionReader, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns weights of ours that they do not have, at the values that change nothing."""
    made = {"attention.edits.1.weight": torch.ones(2 * sizes["head"])}
    if options.flag("attention_bias"):
        # Our bias switch is one for the whole block.
        widths = {"gate": sizes["width"], "up": sizes["width"], "down": sizes["dim"]}
        made |= {f"mlp.{n}_proj.bias": torch.zeros(w) for n, w in widths.items()}
    return made


def _config(options: OptionReader, sizes: Mapping[str, int]) -> SoftmapConfig:
    eps = options.number("rms_norm_eps", 1e-5, least=0)
    return SoftmapConfig(
        variant={"diff": {"norm_eps": eps}},
        vocab_size=sizes["vocab"],
        hidden_size=sizes["dim"],
        num_hidden_layers=options.count("num_hidden_layers"),
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["groups"],
        head_dim=sizes["head"],
        intermediate_size=sizes["width"],
        max_position_embeddings=options.count("max_position_embeddings", 2048),
        tie_word_embeddings=options.flag("tie_word_embeddings"),
        backbone={
            "rope_theta": _theta(options),
            "norm_eps": eps,
            "bias": options.flag("attention_bias"),
        },
        use_cache=options.flag("use_cache", True),
        **options.tokens(sizes["vocab"]),
    )


def _theta(options: OptionReader) -> float:
    rope = OptionReader(f"{WHAT} rope_parameters", options.get("rope_parameters", {}))
    unscaled = Only(("default",), "softmap's RoPE angles are not rescaled")
    rope.only({"rope_type": unscaled, "type": unscaled})
    rope.known(("rope_type", "type", "rope_theta"))
    return rope.number("rope_theta", 10000.0, above=0)
