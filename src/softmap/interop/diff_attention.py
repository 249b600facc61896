"""One layer of Differential attention (V1), from the authors' ``MultiheadFlashDiff``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from softmap.interop import float32
from softmap.interop.options import OptionReader
from softmap.interop.source import Rule, WeightReader, fill
from softmap.nn import Attention

OPTIONS = ("embed_dim", "depth", "num_heads", "num_kv_heads", "rope", "rope_base", "note")

ROPE: dict[str, dict[str, Any]] = {
    "interleaved": {"rotary_interleaved": True},
    "half": {"rotary_interleaved": False},
    "none": {"position": "none"},
}

# Their query head h has the maps 2h and 2h+1, as ours, so no row moves. With GQA the two maps of a
# head read the key halves 2g and 2g+1 of its group g (their flash files; the naive one differs).
RULES = (
    Rule("q_proj.weight", "dim dim", ("q_proj.weight",)),
    Rule("k_proj.weight", "kv dim", ("k_proj.weight",)),
    Rule("v_proj.weight", "kv dim", ("v_proj.weight",)),
    Rule("out_proj.weight", "dim dim", ("o_proj.weight",)),
    *(
        Rule(f"lambda_{n}", "half", (f"edits.0.lambda_{n}",))
        for n in ("q1", "k1", "q2", "k2")
    ),
    Rule("subln.weight", "head", ("edits.1.weight",)),
)  # fmt: skip


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Attention:
    """Returns a layer from x (B, T, D) to y (B, T, D); their ``num_heads`` counts pairs of
    maps, ours maps.
    """
    options = OptionReader("diff-attention", config)
    options.known(OPTIONS)
    dim, heads = options.count("embed_dim"), options.count("num_heads")
    kv_heads = options.count("num_kv_heads", heads)
    layer = options.count("depth", least=0)
    half = options.divisible(("embed_dim", dim), ("2 * num_heads", 2 * heads))
    options.divisible(("num_heads", heads), ("num_kv_heads", kv_heads))
    rope = options.choice("rope", ROPE, "interleaved")
    theta = options.number("rope_base", 10000.0)
    source = WeightReader("diff-attention", state)
    sizes = {"dim": dim, "kv": 2 * kv_heads * half, "half": half, "head": 2 * half}
    weights = source.apply(RULES, sizes)
    source.finish()
    dtype = source.dtype
    with torch.device("meta"):
        module = Attention(
            dim, 2 * heads, float32.DIFF if dtype == torch.float64 else "diff",
            kv_heads=2 * kv_heads, layer=layer, depth=layer + 1, rope_theta=theta, **rope,
        )  # fmt: skip
    fill(module, weights, dtype)
    return module
