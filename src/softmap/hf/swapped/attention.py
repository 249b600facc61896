"""softmap attention in place of a model's own, with its weights, positions and window."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.hf.swapped.kinds import Projections, linear
from softmap.nn import Attention, Record
from softmap.nn.positions import Positions


@dataclass(frozen=True)
class Pass:
    """What a model passes to its swapped layers; ``wants_maps``: whether they return edited
    maps.
    """

    positions: Positions
    cache: Any
    wants_maps: bool


class SwappedAttention(nn.Module):
    """Replaces a block's own attention and has its signature. Only its model can call it, since
    only the model knows of padding, packed documents and the cache.
    """

    def __init__(self, attention: Attention, layer_idx: int) -> None:
        super().__init__()
        self.attention = attention
        self.layer_idx = layer_idx
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # they did it themselves

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        softmap: Pass | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns hidden states (B, T, D), and the edited map (B, H', T, S) or None.

        Args:
            position_embeddings: the model's cos and sin (b, T, width) of these tokens.
            softmap: what the model passes.

        Raises ``ValueError`` without ``softmap``.
        """
        if softmap is None or position_embeddings is None:
            raise SoftmapError(
                "a swapped layer is told of padding and its cache by its model: expected a call of "
                f"the model, found one of layer {self.layer_idx} alone"
            )
        cos, sin = (t[:, None, :, : t.shape[-1] // 2] for t in position_embeddings)
        positions = dataclasses.replace(softmap.positions, rotary=(cos, sin))
        own = None if softmap.cache is None else softmap.cache.layers[self.layer_idx].own
        record = Record(wants_maps=softmap.wants_maps)
        out = self.attention(hidden_states, positions, own, record=record)
        return out, record.maps[0] if record.maps else None


def fitted(
    old: Projections, variant: Any, layer: int, depth: int, window: int | None, impl: str
) -> tuple[Attention, dict[str, int]]:
    """Returns attention of the variant with the linear maps of ``old``, and how many weights of
    which of its parameters are new.

    The maps of keys, values and the output stay as they are. So do those of queries, unless the
    variant has more maps or pairs them with other keys: each query head of the model then gives its
    rows to a map that reads the same key as before (the first of several, in ``diff2``), and the
    rows of the others are new. ``window`` is the layer's own; a variant's narrower one wins.
    """
    weight, d = old.q.weight, old.head_dim
    heads, keys = weight.shape[0] // d, old.k.weight.shape[0] // d
    with torch.device(weight.device):
        made = Attention(
            weight.shape[1], heads, variant,
            kv_heads=keys, head_dim=d, layer=layer, depth=depth, impl=impl,
        )  # fmt: skip
    windows = [w for w in (made.window, window) if w is not None]
    made.window = min(windows, default=None)
    made.k_proj, made.v_proj, made.o_proj = old.k, old.v, old.o
    made.q_proj = queries(old.q, made, heads)
    if old.q_norm is not None and old.k_norm is not None:
        made.q_norm, made.k_norm = old.q_norm, old.k_norm  # type: ignore[assignment]
    kept = [m for m in vars(old).values() if isinstance(m, nn.Module)]
    for module in made.children():
        if module not in kept:
            module.to(weight.dtype)
    return made, new_weights(made, old.q, kept)


def new_weights(made: Attention, q: nn.Linear, kept: Sequence[nn.Module]) -> dict[str, int]:
    """Returns how many weights of which parameters of ``made`` are in none of the ``kept`` modules;
    its queries contain those of ``q``.
    """
    old = {p for module in kept for p in module.parameters()}
    sizes = {n: p.numel() for n, p in made.named_parameters() if p not in old}
    for name, weight in q.named_parameters(prefix="q_proj"):
        if name in sizes:
            sizes[name] -= weight.numel()
    return {name: size for name, size in sizes.items() if size}


def queries(q: nn.Linear, made: Attention, heads: int) -> nn.Linear:
    """Returns the queries' linear map of the layer ``made`` for a model of ``heads`` query
    heads.
    """
    maps = _maps_of_heads(made, heads)
    if maps == list(range(made.heads.maps)):
        return q
    weight, bias = q.weight, q.bias
    fresh = nn.Linear(
        weight.shape[1], made.heads.maps * made.head_dim, bias is not None, device=weight.device
    )

    def filled(new: Tensor, old: Tensor) -> Tensor:
        out = new.detach().to(old.dtype).unflatten(0, (-1, made.head_dim)).clone()
        out[maps] = old.detach().unflatten(0, (-1, made.head_dim))
        return out.flatten(0, 1)

    return linear(filled(fresh.weight, weight), None if bias is None else filled(fresh.bias, bias))


def _maps_of_heads(made: Attention, heads: int) -> list[int]:
    """Returns, for each query head of a model, the map that takes its rows; both read the
    same key.
    """
    by_key: defaultdict[int, list[int]] = defaultdict(list)
    for number, key in enumerate(made.heads.key_of_map):
        by_key[key].append(number)
    share, expansion = heads // made.heads.keys, made.heads.maps // heads
    return [by_key[h // share][expansion * (h % share)] for h in range(heads)]
