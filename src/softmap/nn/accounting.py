"""Parameters, FLOPs and cache bytes of a configuration, counted without allocating it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from softmap.errors import SoftmapError
from softmap.maps import STAGES, Edit
from softmap.nn.attention import Attention
from softmap.nn.config import ModelConfig
from softmap.nn.decoder import Decoder
from softmap.ops.count import Counted, EditInput, operations


def _as_config(config: Any) -> ModelConfig:
    """Returns a [`ModelConfig`][] as it is, or that of a ``SoftmapConfig``."""
    return config if isinstance(config, ModelConfig) else config.model_config()


def _meta(config: Any) -> tuple[ModelConfig, Decoder]:
    config = _as_config(config)
    with torch.device("meta"):
        return config, Decoder(config)


def parameters(config: Any) -> dict[str, int]:
    """Returns ``{"total", "non_embedding"}``; a tied head counts once, as the embedding."""
    config, model = _meta(config)
    count = sum(p.numel() for p in model.parameters())
    embedding = sum(p.numel() for n, p in model.named_parameters() if n.startswith("embed_"))
    head = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    return {"total": count + head, "non_embedding": count - embedding}


class Forward(NamedTuple):
    """Forward operations for one token of a full context.

    head: the logits. products: of the layers, with weights and of the map. edits: what the edits of
    the map do.
    """

    head: float
    products: float
    edits: float


def forward_flops(config: Any, context: int) -> Forward:
    """Operations of the forward pass by what they are, as :func:`flops_per_token` counts them."""
    config, model = _meta(config)
    products = edited = 0.0
    for layer in model.layers:
        attention: Attention = layer.attention  # type: ignore[assignment,union-attr]
        edits: list[Edit] = list(attention.edits)  # type: ignore[arg-type]
        own = {id(p) for e in edits for p in e.parameters()}
        products += sum(2.0 * p.numel() for p in layer.parameters()
                        if p.ndim >= 2 and id(p) not in own)  # fmt: skip
        products += sum(2.0 * b.numel() for b in layer.buffers() if b.ndim >= 2)  # fixed W_init
        h, n = attention.heads, _mean_keys(context, attention.window)
        products += 2.0 * (h.maps * attention.head_dim + h.outputs * attention.value_dim) * n
        for counted in _counted(attention, edits, config.hidden_size):
            edited += counted.token + counted.cell * n
    return Forward(2.0 * config.vocab_size * config.hidden_size, products, edited)


def flops_per_token(config: Any, context: int) -> int:
    """Returns forward and backward operations for one token of a full context.

    A multiply-add counts 2: matrix products cost 2 per weight, scores and combined values 2 per
    channel and visible key, and edits what [`softmap.ops.count.operations`][] counts. The backward
    pass counts twice the forward pass. This is the cost of the maths, not of a backend: neither
    recomputation nor masked cells are included.
    """
    return int(3 * sum(forward_flops(config, context)))


def _counted(attention: Attention, edits: list[Edit], dim: int) -> Iterator[Counted]:
    """Returns each edit's operations, with its place in the layer."""
    h = attention.heads
    maps = dict.fromkeys(STAGES, h.maps) | {"output": h.outputs}
    for edit in edits:
        place = EditInput(maps[edit.stage], attention.head_dim, attention.value_dim, dim)
        yield operations(edit, place)
        if edit.stage == "weights":
            maps["weights"] = edit.heads_out(maps["weights"])


def _mean_keys(context: int, window: int | None) -> float:
    """Returns the mean number of keys that a row of a causal context sees."""
    w = context if window is None else min(window, context)
    return (w * (w + 1) / 2 + (context - w) * w) / context


def cache_bytes_per_token(config: Any, bytes_per_element: int = 2) -> int:
    """Returns the bytes that each token adds to the cache, over all layers without a window.

    Local layers keep a constant number of ``window - 1`` tokens.
    """
    config, model = _meta(config)
    attentions: list[Attention] = [m.attention for m in model.layers]  # type: ignore[misc,union-attr]
    return sum(
        elements_per_token(a, config.hidden_size) for a in attentions if a.window is None
    ) * bytes_per_element  # fmt: skip


def elements_per_token(attention: Attention, dim: int) -> int:
    """Returns how many numbers the cache of one layer keeps for each token."""
    h = attention.heads
    x = torch.empty(1, 1, dim, device="meta")
    q, k = (torch.empty(1, n, 1, attention.head_dim, device="meta") for n in (h.maps, h.keys))
    declared = [e(x, q, k).key for e in attention.edits]
    extra = sum(t.numel() for group in declared for t in group.values())
    return h.keys * attention.head_dim + h.values * attention.value_dim + extra


def solve_intermediate_size(config: Any, target_total: int) -> int:
    """Returns the MLP width that brings the model closest to ``target_total`` parameters.

    The width is a multiple of 8 where that stays within 0.1 % of the target: with other widths a
    GPU's rows of 16-bit numbers begin at odd places, and its products take several times as long.

    Raises ``ValueError`` where even the smallest MLP leaves more than 1 % too many.
    """
    config = _as_config(config)

    def total(width: int) -> int:
        return parameters(dataclasses.replace(config, intermediate_size=width))["total"]

    base, slope = total(1), total(2) - total(1)
    width = max(1, round((target_total - base) / slope) + 1)
    even = max(1, round(width / 8)) * 8
    if abs(total(even) - target_total) <= 0.001 * target_total:
        return even
    if abs(total(width) - target_total) > 0.01 * target_total:
        raise SoftmapError(
            f"{config.composition.label} cannot be made {target_total:,} parameters within 1 % by "
            f"its MLP width: width {width} gives {total(width):,}"
        )
    return width
