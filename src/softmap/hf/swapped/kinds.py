"""The families of transformers models that take softmap attention, and where theirs is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Projections:
    """A layer's linear maps, its norms of queries and keys, and the width of a head."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    o: nn.Linear
    head_dim: int
    q_norm: nn.Module | None = None
    k_norm: nn.Module | None = None


@dataclass(frozen=True)
class Family:
    """A family of transformers, with classes ``<prefix>Config``, ``<prefix>Model``, ...

    Attributes:
        attention: the name of a block's attention.
        linears: the names of the linear maps in it.
    """

    model_type: str
    prefix: str
    attention: str = "self_attn"
    linears: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def projections(self, old: nn.Module) -> Projections:
        """Returns the projections of a layer's own attention."""
        if self.linears != Family.linears:
            return _divided(old)
        q, k, v, o = (getattr(old, name) for name in self.linears)
        q_norm, k_norm = (getattr(old, name, None) for name in ("q_norm", "k_norm"))
        return Projections(q, k, v, o, old.head_dim, q_norm, k_norm)  # type: ignore[arg-type]

    def window(self, config: Any, layer: int) -> int | None:
        """Returns the number of keys that a row of the layer sees, its own included; None for
        all.
        """
        if self.model_type == "mistral":
            return config.sliding_window
        if self.model_type.startswith("qwen"):
            local = config.layer_types[layer] == "sliding_attention"
            return config.sliding_window if local else None
        return None


KINDS = (
    Family("llama", "Llama"),
    Family("mistral", "Mistral"),
    Family("qwen2", "Qwen2"),
    Family("qwen3", "Qwen3"),
    Family("gpt_neox", "GPTNeoX", "attention", ("query_key_value", "dense")),
)


def _divided(old: Any) -> Projections:
    """Returns q, k and v of GPT-NeoX, whose one linear map has their rows head by head."""
    fused, d = old.query_key_value, old.head_size

    def rows(which: int) -> nn.Linear:
        def cut(t: Any) -> Any:
            return t.unflatten(0, (-1, 3, d))[:, which].flatten(0, 1).clone()

        return linear(cut(fused.weight), None if fused.bias is None else cut(fused.bias))

    return Projections(rows(0), rows(1), rows(2), old.dense, d)


def linear(weight: Any, bias: Any) -> nn.Linear:
    """Returns a linear map of these values."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    made.weight = nn.Parameter(weight.detach())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made
