"""The DCFormer language model (DCMHA's authors, Caiyun), released checkpoints included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.interop.causal_lm import fill_causal_lm
from softmap.interop.dcformer_names import (
    CHOICES,
    DYNAMIC,
    LAYER,
    MODEL,
    QK_NORM,
    RANK,
    SCRATCH,
    UNREAD,
)
from softmap.interop.options import Only, OptionReader
from softmap.interop.source import WeightReader

WHAT = "dcformer"

ONLY = {
    "use_dcmha": Only((True,), "their inference composes heads all the same"),
    "query_wise": Only((False,), "their prefill composes by the key's token all the same"),
    "mgate": Only((False,), "gates over groups of MLP channels are not part of softmap's MLP"),
}

OPTIONS = (
    "block_size", "vocab_size", "n_layer", "n_head", "n_local_heads", "head_dim", "dim",
    "intermediate_size", "rope_base", "norm_eps", "use_qk_norm", "use_sw", "window_size",
    "window_type", *ONLY,
)  # fmt: skip

# One letter a layer, repeated.
PATTERNS = {"LG": "LG", "LGLL": "LGLL", "LGL6": "LGLLLLLL"}
WINDOW = 256


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> SoftmapForCausalLM:
    """Returns a model from input_ids (B, T) to ``.logits`` (B, T, vocabulary), with cache and
    ``generate``.

    A local layer sees ``window_size`` keys, the query's own included, on every path (the authors'
    paths differ by one). With ``n_local_heads`` < ``n_head``, query head h reads key head h // (H /
    G).
    """
    options = OptionReader(WHAT, config)
    options.published(OPTIONS, UNREAD)
    options.only(ONLY)
    source = WeightReader(WHAT, state)
    sizes = _sizes(options)
    weights = source.apply(MODEL, sizes)
    for n in range(options.count("n_layer")):
        weights |= _layer(source, options, sizes, n)
    head = _head(source, options, sizes, weights["model.embed_tokens.weight"])
    source.finish()
    with torch.device("meta"):
        model = SoftmapForCausalLM(_config(options, sizes, tied=head is None))
    fill_causal_lm(model, weights, head, source.dtype)
    return model


def _sizes(options: OptionReader) -> dict[str, int]:
    dim, heads = options.count("dim"), options.count("n_head")
    groups = heads if options.get("n_local_heads", -1) == -1 else options.count("n_local_heads")
    options.divisible(("n_head", heads), ("n_local_heads", groups))
    head = options.divisible(("dim", dim), ("n_head", heads))
    options.follows("head_dim", head, "dim / n_head")
    two_thirds = 8 * dim // 3
    return {
        "vocab": options.count("vocab_size"),
        "dim": dim,
        "heads": heads,
        "groups": groups,
        "head": head,
        "kv": groups * head,
        "qkv": dim + 2 * groups * head,
        "width": options.count("intermediate_size", -(-two_thirds // 256) * 256),
        "hidden": 2 * RANK * heads,
        "low": 2 * RANK,
        "lows": 2 * RANK * heads,
        "gates": 4 * heads,
        "merged": 4 * (2 * RANK + 1) * heads,
    }


def _layer(
    source: WeightReader, options: OptionReader, sizes: Mapping[str, int], n: int
) -> dict[str, Tensor]:
    theirs, ours = f"layers.{n}.", f"model.layers.{n}."
    made = source.apply(LAYER, sizes, theirs, ours)
    for tables in CHOICES:
        made |= source.either(tables, sizes, theirs, ours)
    if options.flag("use_qk_norm"):
        made |= source.apply(QK_NORM, sizes, theirs, ours)
    made |= _static(source, options, theirs + DYNAMIC, f"{ours}attention.edits.", sizes["heads"])
    for name, shape in SCRATCH.items():
        if (key := f"{theirs}attention.kv_cache.{name}") in source:
            source.take(key, *(sizes.get(str(n), n) for n in shape))  # type: ignore[arg-type]
    return made


def _static(
    source: WeightReader, options: OptionReader, theirs: str, ours: str, heads: int
) -> dict[str, Tensor]:
    """Returns the static H x H maps beside the identity, used only with ``use_sw``; ``sw``
    repeats them.
    """
    used, eye, made = options.flag("use_sw"), torch.eye(heads), {}
    for edit, stage in enumerate(("pre", "post")):
        key = f"{theirs}{stage}_proj.w"
        if used:
            made[f"{ours}{edit}.static"] = source.take(key, 1, heads, heads)[0]
        elif key in source and not (source.take(key, 1, heads, heads)[0] == eye).all():
            raise SoftmapError(
                f"{WHAT}: {key} must be the identity where option use_sw is not true, found a "
                "learnt map; set use_sw to load it"
            )
    maps = [eye + t for t in made.values()] or [eye, eye]
    source.copy(f"{theirs}sw", f"{theirs}pre_proj.w, {theirs}post_proj.w", torch.stack(maps))
    return made


def _head(
    source: WeightReader, options: OptionReader, sizes: Mapping[str, int], embedding: Tensor
) -> Tensor | None:
    """Returns the output weights, or None where they are the embeddings."""
    tied = options.flag("tie_word_embeddings")
    if tied and "output.weight" not in source:
        return None
    head = source.take("output.weight", sizes["vocab"], sizes["dim"])
    return None if tied and torch.equal(head, embedding) else head


def _config(options: OptionReader, sizes: Mapping[str, int], tied: bool) -> SoftmapConfig:
    return SoftmapConfig(
        variant={"dcmha": _variant(options)},
        vocab_size=sizes["vocab"],
        hidden_size=sizes["dim"],
        num_hidden_layers=options.count("n_layer"),
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["groups"],
        intermediate_size=sizes["width"],
        max_position_embeddings=options.count("block_size", 2048),
        tie_word_embeddings=tied,
        backbone={
            "rope_theta": options.number("rope_base", 500000.0, above=0),
            "norm_eps": options.number("norm_eps", 1e-5, least=0),
            "qk_norm_eps": 1e-6,
        },
        use_cache=options.flag("use_cache", True),
        **options.tokens(sizes["vocab"]),
    )


def _variant(options: OptionReader) -> dict[str, Any]:
    """Returns the options of our ``dcmha``. Without a named pattern their even layers are local."""
    made: dict[str, Any] = {"static": True} if options.flag("use_sw") else {}
    if options.flag("use_qk_norm"):
        made["qk_norm"] = True
    # Their default is a window, and null means none, unless a pattern is named.
    if options.get("window_type") or options.config.get("window_size", WINDOW) is not None:
        made["pattern"] = options.choice("window_type", PATTERNS, "LG")
        made["window"] = options.count("window_size", WINDOW)
    return made
