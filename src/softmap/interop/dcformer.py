"""The DCFormer language model (DCMHA's authors, Caiyun), released checkpoints included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.interop.causal_lm import fill_causal_lm
from softmap.interop.options import Only, Options
from softmap.interop.source import Rule, Source

WHAT = "dcformer"
RANK = 2  # n_head // (n_head // 2) in their code

ONLY = {
    "use_dcmha": Only((True,), "their inference composes heads all the same"),
    "query_wise": Only((False,), "their prefill composes by the key's token all the same"),
    "mgate": Only((False,), "gates over groups of MLP channels are not part of softmap's MLP"),
}

# One letter a layer, repeated.
PATTERNS = {"LG": "LG", "LGLL": "LGLL", "LGL6": "LGLLLLLL"}
WINDOW = 256

# Their axis of 4 runs pre-query, pre-key, post-query, post-key.
BRANCHES = tuple(f"attention.edits.{e}.{side}" for e in (0, 1) for side in ("query", "key"))
QKV = tuple(f"attention.{n}_proj.weight" for n in "qkv")

MODEL = (
    Rule("tok_embeddings.weight", "vocab dim", ("model.embed_tokens.weight",)),
    Rule("norm.weight", "dim", ("model.norm.weight",)),
)
LAYER = (
    Rule("attention.wo.weight", "dim dim", ("attention.o_proj.weight",)),
    Rule(
        "attention.dyn_w_proj.dw1", "dim 1 4 hidden",
        tuple(f"{b}.w1" for b in BRANCHES), lambda t: t[:, 0].unbind(1),
    ),
    # (1, 4, K, 2R, H): of the 2R rows the first R are w1 and the others w2, as ours.
    Rule(
        "attention.dyn_w_proj.qkw", "1 4 hidden low heads",
        tuple(f"{b}.w2" for b in BRANCHES), lambda t: t[0].unbind(0),
    ),
    Rule(
        "attention.dyn_w_proj.dd", "dim 1 gates",
        tuple(f"{b}.wg" for b in BRANCHES), lambda t: t[:, 0].chunk(4, -1),
    ),
    Rule("feed_forward.w1.weight", "width dim", ("mlp.gate_proj.weight",)),
    Rule("feed_forward.w3.weight", "width dim", ("mlp.up_proj.weight",)),
    Rule("feed_forward.w2.weight", "dim width", ("mlp.down_proj.weight",)),
    Rule("attention_norm.weight", "dim", ("attention_norm.weight",)),
    Rule("ffn_norm.weight", "dim", ("mlp_norm.weight",)),
)  # fmt: skip
QK_NORM = tuple(
    Rule(f"attention.{n}_norm.scale", "head", (f"attention.{n}_norm.weight",)) for n in "qk"
)
# Made anew from dw1, dd and qkw by their code, or caches; the checkpoint may have them.
DERIVED = r"layers\.\d+\.attention\.(dyn_w_proj\.(dw_m|qkw_m|sw)|kv_cache\..*)"


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> SoftmapForCausalLM:
    """input_ids (B, T) to ``.logits`` (B, T, vocabulary), with cache and ``generate``.

    A local layer sees ``window_size`` keys, the query's own included, on every path (their paths
    differ by one). ``n_local_heads`` < ``n_head``: query head h reads key head h // (H / G).
    """
    options = Options(WHAT, config)
    options.only(ONLY)
    source = Source(WHAT, state)
    sizes = _sizes(options)
    weights = source.apply(MODEL, sizes)
    for n in range(options.count("n_layer")):
        weights |= _layer(source, options, sizes, n)
    head = _head(source, options, sizes, weights["model.embed_tokens.weight"])
    source.skip(DERIVED)
    source.finish()
    with torch.device("meta"):
        model = SoftmapForCausalLM(_config(options, sizes, tied=head is None))
    fill_causal_lm(model, weights, head)
    return model


def _sizes(options: Options) -> dict[str, int]:
    dim, heads = options.count("dim"), options.count("n_head")
    groups = heads if options.get("n_local_heads", -1) == -1 else options.count("n_local_heads")
    options.divisible(("n_head", heads), ("n_local_heads", groups))
    # Their config class sets head_dim so, whatever the file says.
    head = options.divisible(("dim", dim), ("n_head", heads))
    two_thirds = int(8 * dim / 3)
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
        "gates": 4 * heads,
    }


def _layer(source: Source, options: Options, sizes: Mapping[str, int], n: int) -> dict[str, Tensor]:
    theirs, ours = f"layers.{n}.", f"model.layers.{n}."
    made = source.apply(LAYER, sizes, theirs, ours)
    made |= source.apply(_projections(source, sizes, theirs), sizes, theirs, ours)
    if options.flag("use_qk_norm"):
        made |= source.apply(QK_NORM, sizes, theirs, ours)
    for edit, stage in enumerate(("pre", "post")):
        static = _static(source, options, f"{theirs}attention.dyn_w_proj.{stage}_proj.w", sizes)
        if static is not None:
            made[f"{ours}attention.edits.{edit}.static"] = static
    return made


def _projections(source: Source, sizes: Mapping[str, int], theirs: str) -> tuple[Rule, ...]:
    """One stacked weight, or three, which their loader stacks."""
    if theirs + "attention.wq.weight" in source:
        shapes = ("dim dim", "kv dim", "kv dim")
        names = (f"attention.w{n}.weight" for n in "qkv")
        return tuple(Rule(n, s, (o,)) for n, s, o in zip(names, shapes, QKV, strict=True))
    parts = [sizes["dim"], sizes["kv"], sizes["kv"]]
    return (Rule("attention.wqkv.weight", "qkv dim", QKV, lambda t: t.split(parts)),)


def _static(source: Source, options: Options, key: str, sizes: Mapping[str, int]) -> Tensor | None:
    """The static H x H map beside the identity, used only with ``use_sw``."""
    if options.flag("use_sw"):
        return source.take(key, 1, sizes["heads"], sizes["heads"])[0]
    if key in source:
        found = source.take(key, 1, sizes["heads"], sizes["heads"])[0]
        if not torch.equal(found, torch.eye(sizes["heads"]).to(found)):
            raise SoftmapError(
                f"{WHAT}: {key} must be the identity where option use_sw is not true, found a "
                "learnt map; set use_sw to load it"
            )
    return None


def _head(
    source: Source, options: Options, sizes: Mapping[str, int], embedding: Tensor
) -> Tensor | None:
    """The output weights, or None where they are the embeddings."""
    tied = options.flag("tie_word_embeddings")
    if tied and "output.weight" not in source:
        return None
    head = source.take("output.weight", sizes["vocab"], sizes["dim"])
    return None if tied and torch.equal(head, embedding) else head


def _config(options: Options, sizes: Mapping[str, int], tied: bool) -> SoftmapConfig:
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
            "rope_theta": options.number("rope_base", 500000.0),
            "norm_eps": options.number("norm_eps", 1e-5),
            "qk_norm_eps": 1e-6,
        },
        bos_token_id=options.get("bos_token_id"),
        eos_token_id=options.get("eos_token_id"),
        pad_token_id=options.get("pad_token_id"),
    )


def _variant(options: Options) -> dict[str, Any]:
    """Options of our ``dcmha``. Without a pattern's name their even layers are the local ones."""
    made: dict[str, Any] = {"static": True} if options.flag("use_sw") else {}
    if options.flag("use_qk_norm"):
        made["qk_norm"] = True
    # Their default is a window, and null means none, unless a pattern is named.
    if options.get("window_type") or options.config.get("window_size", WINDOW) is not None:
        made["pattern"] = options.choice("window_type", PATTERNS, "LG")
        made["window"] = options.count("window_size", WINDOW)
    return made
