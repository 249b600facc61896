"""DCFormer's weights: their names and shapes, our names, and how the one becomes the others.

Some weights lie in their modules in two forms: ``dw1``, ``dd`` and ``qkw``, which their prefill
reads, and the merged ``dw_m`` and ``qkw_m``, which their training moves. The second are made from
the first whenever their caches are set up. Either form will do here; both must agree.
"""

from __future__ import annotations

from torch import Tensor

from softmap.interop.source import Rule

RANK = 2  # n_head // (n_head // 2) in their code

# Their axis of 4 runs pre-query, pre-key, post-query, post-key.
BRANCHES = tuple(f"attention.edits.{e}.{side}" for e in (0, 1) for side in ("query", "key"))
W1, W2, WG = (tuple(f"{branch}.{n}" for branch in BRANCHES) for n in ("w1", "w2", "wg"))
QKV = tuple(f"attention.{n}_proj.weight" for n in "qkv")
DYNAMIC = "attention.dyn_w_proj."

MODEL = (
    Rule("tok_embeddings.weight", "vocab dim", ("model.embed_tokens.weight",)),
    Rule("norm.weight", "dim", ("model.norm.weight",)),
)
LAYER = (
    Rule("attention.wo.weight", "dim dim", ("attention.o_proj.weight",)),
    Rule("feed_forward.w1.weight", "width dim", ("mlp.gate_proj.weight",)),
    Rule("feed_forward.w3.weight", "width dim", ("mlp.up_proj.weight",)),
    Rule("feed_forward.w2.weight", "dim width", ("mlp.down_proj.weight",)),
    Rule("attention_norm.weight", "dim", ("attention_norm.weight",)),
    Rule("ffn_norm.weight", "dim", ("mlp_norm.weight",)),
)
QK_NORM = tuple(
    Rule(f"attention.{n}_norm.scale", "head", (f"attention.{n}_norm.weight",)) for n in "qk"
)


def _rows(t: Tensor) -> tuple[Tensor, ...]:
    """Returns the rows of the query (D), the key and the value from (D + 2 G d, D)."""
    dim = t.shape[1]
    return t.split([dim, *[(len(t) - dim) // 2] * 2])


def _columns(t: Tensor) -> tuple[Tensor, ...]:
    """Returns w1 of the four branches, then their gates, from (D, 4 K + 4 H) with K = 4 H."""
    first = t.shape[1] * 4 // 5
    return (*t[:, :first].chunk(4, 1), *t[:, first:].chunk(4, 1))


# Alternative tables of the same weights; one of each pair suffices.
CHOICES = (
    (
        (Rule("attention.wqkv.weight", "qkv dim", QKV, _rows),),
        (
            Rule("attention.wq.weight", "dim dim", QKV[:1]),
            Rule("attention.wk.weight", "kv dim", QKV[1:2]),
            Rule("attention.wv.weight", "kv dim", QKV[2:]),
        ),
    ),
    (
        (
            Rule(f"{DYNAMIC}dw1", "dim 1 4 hidden", W1, lambda t: t[:, 0].unbind(1)),
            Rule(f"{DYNAMIC}dd", "dim 1 gates", WG, lambda t: t[:, 0].chunk(4, -1)),
        ),
        (Rule(f"{DYNAMIC}dw_m", "dim merged", (*W1, *WG), _columns),),
    ),
    (
        # (1, 4, K, 2R, H): of the 2R rows the first R are w1 and the others w2, as ours.
        (Rule(f"{DYNAMIC}qkw", "1 4 hidden low heads", W2, lambda t: t[0].unbind(0)),),
        (
            Rule(
                f"{DYNAMIC}qkw_m",
                "4 hidden lows",
                W2,
                lambda t: t.unflatten(2, (2 * RANK, -1)).unbind(0),
            ),
        ),
    ),
)
# Buffers beside the weights: keys, values and composed maps of the last batch.
# None stands for the batch and for the places in the cache.
SCRATCH: dict[str, tuple[str | int | None, ...]] = {
    "k_cache": (None, "groups", None, "head"),
    "v_cache": (None, "groups", None, "head"),
    "kw_cache": (None, None, 2, "heads", "heads"),
    "kw_sub_cache": (None, None, 5, 2, "heads"),
}
# Their options that choose among code paths, or set initial values.
UNREAD = ("is_training", "q_chunk_size", "prefill_pad", "use_gradient_checkpointing", "mgate_dim")
