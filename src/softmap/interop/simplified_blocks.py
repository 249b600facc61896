"""Stacks of blocks from the simplified Transformer blocks' authors (``myGPT2Block``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.interop import float32
from softmap.interop.block_gains import branch_gains, freeze
from softmap.interop.options import OptionReader
from softmap.interop.reparameterised import projection_kind, projection_weights
from softmap.interop.simplified_options import ACTIVATIONS, NORMS, ONLY, OPTIONS, UNREAD
from softmap.interop.source import Rule, WeightReader, fill, flat, transposed
from softmap.nn import Block, LayerCache, ModelConfig

WHAT = "simplified-blocks"

# Queries and keys lie side by side in one weight, stored (in, out) like all of theirs.
WEIGHTS = (
    Rule(
        "attn.qk_attn.weight", "dim 2dim",
        ("attention.q_proj.weight", "attention.k_proj.weight"), lambda t: t.T.chunk(2),
    ),
    Rule(
        "attn.qk_attn.bias", "2dim",
        ("attention.q_proj.bias", "attention.k_proj.bias"), lambda t: t.chunk(2),
    ),
    Rule("mlp.c_fc.weight", "dim width", ("mlp.up_proj.weight",), transposed),
    Rule("mlp.c_fc.bias", "width", ("mlp.up_proj.bias",)),
    Rule("mlp.c_proj.weight", "width dim", ("mlp.down_proj.weight",), transposed),
    Rule("mlp.c_proj.bias", "dim", ("mlp.down_proj.bias",)),
)  # fmt: skip
MAP_GAINS = (
    Rule("attn.attn_mat_skip_gain", "1 heads 1 1", ("alpha",), flat),
    Rule("attn.attn_mat_resid_gain", "1 heads 1 1", ("beta",), flat),
    Rule("attn.centre_attn_gain", "1 heads 1 1", ("gamma",), flat),
)


class BlockStack(nn.Module):
    """A stack of [`softmap.nn.Block`][] without a final norm, from x (B, T, D) to y (B, T, D)."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)

    def forward(self, x: Tensor, caches: list[LayerCache] | None = None) -> Tensor:
        """Returns y; with ``caches`` from [`new_caches`][] x holds only the new tokens."""
        for n, layer in enumerate(self.layers):
            x = layer(x, None, caches[n] if caches else None)
        return x

    def new_caches(self) -> list[LayerCache]:
        """Returns an empty cache for each layer."""
        return [layer.attention.new_cache() for layer in self.layers]  # type: ignore[operator,union-attr]


def load(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> BlockStack:
    """Returns the stack with all gains at their values in ``state``, trainable where theirs
    are.

    Whether a skip exists is decided by the config, as in their code: a skip whose option is 0 is
    absent, whatever its weight has drifted to. Biases are frozen where theirs are.
    """
    options = OptionReader(WHAT, config)
    options.published(OPTIONS, UNREAD)
    options.only(ONLY)
    source = WeightReader(WHAT, state)
    depth = options.count("n_layer", options.get("num_hidden_layers"))
    pairs = [_block(source, options, n, depth) for n in range(depth)]
    source.finish()
    for block, weights in pairs:
        fill(block, weights, source.dtype)
        freeze(block, options)
    return BlockStack([block for block, _ in pairs]).eval()


def _block(
    source: WeightReader, options: OptionReader, n: int, depth: int
) -> tuple[Block, dict[str, Tensor]]:
    """Returns the block without weights, and its weights."""
    sizes, prefix = _sizes(source, options, n), f"{n}."
    norms = _norm_rules(options, n)
    weights = source.apply(WEIGHTS + norms, sizes, prefix)
    kinds: dict[str, str] = {}
    for side in ("value", "output"):
        kinds[side] = projection_kind(options, side, n, depth)
        weights |= projection_weights(source, kinds[side], side, sizes["dim"], prefix)
    variant, maps = _maps(source, options, sizes, prefix)
    block = _build(options, sizes, n, depth, variant, kinds)
    if block.mlp_norm is not None and not any("mlp_norm" in name for name in weights):
        block.mlp_norm = nn.Identity()
    weights |= maps | branch_gains(source, options, block, prefix)
    if options.flag("parallel_layers"):
        for name in _norm_names(options):  # it exists, although their forward does not read it
            source.take(f"{prefix}ln_2.{name}", sizes["dim"])
    return block, weights


def _sizes(source: WeightReader, options: OptionReader, n: int) -> dict[str, int]:
    dim = options.count("n_embd", options.get("hidden_size"))
    heads = options.count("n_head", options.get("num_attention_heads"))
    options.divisible(("n_embd", dim), ("n_head", heads))
    width = options.count("n_inner", options.count("mlp_width_mult", 4) * dim)
    # Their launcher turns mlp_width_mult into n_inner; their block alone takes 4 for a null one.
    if options.get("n_inner") is None and source.length(f"{n}.mlp.c_fc.bias") == 4 * dim:
        width = 4 * dim
    return {"dim": dim, "2dim": 2 * dim, "heads": heads, "width": width}


def _norm_names(options: OptionReader) -> dict[str, str]:
    """Returns their norms' weights and ours; without norms none, except the first block's."""
    names = {"rmsnorm": {"scale": "weight"}, "layernorm": {"weight": "weight", "bias": "bias"}}
    return names.get(options.choice("norm_type", NORMS, "rmsnorm"), {})


def _norm_rules(options: OptionReader, n: int) -> tuple[Rule, ...]:
    kind = options.choice("norm_type", NORMS, "rmsnorm")
    names = _norm_names(options) if kind != "none" else {"weight": "weight", "bias": "bias"}
    ours = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
    if options.flag("parallel_layers") or kind == "none":
        ours.pop("ln_2")
    if kind == "none" and n > 0:
        ours.clear()
    return tuple(
        Rule(f"{a}.{t}", "dim", (f"{b}.{o}",)) for a, b in ours.items() for t, o in names.items()
    )


def _maps(
    source: WeightReader, options: OptionReader, sizes: dict[str, int], prefix: str
) -> tuple[str, dict[str, Tensor]]:
    """Returns the variant and its gains: A' = beta A, and with ``centre_attn`` + alpha I -
    gamma C.
    """
    gains = source.apply(MAP_GAINS, sizes, prefix)
    if options.flag("centre_attn"):
        double = gains["gamma"].dtype == torch.float64
        return float32.SHAPED if double else "sas", {
            f"attention.edits.0.{n}": t for n, t in gains.items()
        }
    plain = bool((gains["beta"] == 1).all())
    if plain and not options.flag("trainable_attn_mat_gains"):
        return "transformer++", {}
    # Their code leaves the identity out with the centring.
    gains["alpha"] = torch.zeros_like(gains["alpha"])
    return "v-skipinit", {f"attention.edits.0.{n}": gains[n] for n in ("alpha", "beta")}


def _build(
    options: OptionReader,
    sizes: dict[str, int],
    n: int,
    depth: int,
    variant: str,
    kinds: dict[str, str],
) -> Block:
    norm = options.choice("norm_type", NORMS, "rmsnorm")
    activation = options.get("activation_function", "leaky_relu")
    slope = options.number("lrelu_neg_slope", 0.0)
    if activation == "leaky_relu" and slope != 0:
        raise SoftmapError(
            f"{WHAT}: option lrelu_neg_slope={slope} cannot be represented, only 0 (a ReLU)"
        )
    backbone = {
        "block": "parallel" if options.flag("parallel_layers") else "sequential",
        # Without norms theirs keep one, a LayerNorm, at the first block's input.
        "norm": "layernorm" if norm == "none" and n == 0 else norm,
        "norm_eps": options.number("layer_norm_epsilon", 1e-5, least=0),
        "eps_outside": True,
        "mlp": options.choice("activation_function", ACTIVATIONS, "leaky_relu"),
        "position": "none",
        "bias": True,
        "first_value": kinds["value"],
        **kinds,
    }
    config = ModelConfig(
        variant, hidden_size=sizes["dim"], num_attention_heads=sizes["heads"],
        num_hidden_layers=depth, intermediate_size=sizes["width"], backbone=backbone,
    )  # fmt: skip
    with torch.device("meta"):
        return Block(config, n)
