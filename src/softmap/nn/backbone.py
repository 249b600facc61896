"""What a block has besides the edits of its map: norms, skips, MLP, positions, windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softmap.errors import SoftmapError, nearest

CHOICES: dict[str, tuple[str, ...]] = {
    "block": ("sequential", "parallel"),
    "norm": ("rmsnorm", "layernorm", "none"),
    "norms": ("all", "first"),
    "mlp": ("swiglu", "gelu", "relu"),
    "position": ("rope", "learned", "sinusoidal", "none"),
    "value": ("linear", "identity", "residual", "orthogonal"),
    "output": ("linear", "identity", "residual", "orthogonal"),
    "output_init": ("zero", "default"),
}


@dataclass(frozen=True)
class Backbone:
    """The fields that a variant or a recipe may set; the defaults are Transformer++.

    A block computes, with every s, g from the fields below (s_a = attention_skip, ...):

        sequential:  x <- s_a x + g_a Attn(Norm x);  x <- s_m x + g_m MLP(Norm x)
        parallel:    x <- s_m x + g_a Attn(Norm x) + g_m MLP(Norm x)

    In the parallel block the one skip belongs to the MLP's fields.
    """

    block: str = "sequential"
    norm: str = "rmsnorm"
    norms: str = "all"  # "first": of the blocks' norms only block 1's, before attention, is left
    shared_norm: bool = True  # parallel block: both branches read one norm (False: one each)
    final_norm: bool = True
    norm_eps: float = 1e-5
    eps_outside: bool = False  # x / (rms + eps) instead of x / sqrt(ms + eps)
    mlp: str = "swiglu"
    position: str = "rope"
    rope_theta: float = 10000.0
    rotary_fraction: float = 1.0
    rotary_interleaved: bool = False
    qk_norm: bool = False  # RMSNorm of each head's query and key, before RoPE
    qk_norm_eps: float | None = None  # where it differs from norm_eps
    bias: bool = False
    attention_skip: float = 1.0
    attention_gain: float = 1.0
    mlp_skip: float = 1.0
    mlp_gain: float = 1.0
    trainable_gains: bool = False
    value: str = "linear"
    first_value: str | None = None  # the first layer's, where it differs
    output: str = "linear"
    zero_query: bool = False
    query_expansion: int = 1  # query heads per head (DIFF V2: 2)
    output_init: str = "zero"  # last projection of each branch that has a skip
    pattern: str = "G"  # one letter a layer, repeated: L local window, G global
    window: int | None = None  # keys that a local layer's row sees, its own included

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise SoftmapError(
                    f"{name} must be one of {', '.join(allowed)}, found {value!r}"
                    f"{nearest(str(value), allowed)}"
                )
        if self.first_value is not None and self.first_value not in CHOICES["value"]:
            raise SoftmapError(
                f"first_value must be one of {', '.join(CHOICES['value'])}, "
                f"found {self.first_value!r}"
            )
        if not self.pattern or set(self.pattern) - set("LG"):
            raise SoftmapError(f"pattern must be letters L and G, found {self.pattern!r}")
        if "L" in self.pattern and (self.window is None or self.window < 1):
            raise SoftmapError(
                f"pattern {self.pattern!r} has local layers: expected window >= 1, "
                f"found {self.window}"
            )
        if "L" not in self.pattern and self.window is not None:
            raise SoftmapError(
                f"window {self.window} needs local layers: expected L in pattern, "
                f"found {self.pattern!r}"
            )
        check_size("query_expansion", self.query_expansion)
        if not 0 < self.rotary_fraction <= 1:
            raise SoftmapError(f"rotary_fraction must be in (0, 1], found {self.rotary_fraction}")

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Backbone:
        """Defaults, then each mapping in turn. An unknown field is a ``ValueError``."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        given = {k: v for source in sources for k, v in source.items()}
        for name, value in given.items():
            if name not in fields:
                raise SoftmapError(
                    f"no backbone field {name!r}{nearest(name, fields)}; "
                    f"fields: {', '.join(fields)}"
                )
            _check_type(name, value, fields[name].default)
        return cls(**given)

    def layer_window(self, layer: int) -> int | None:
        """The window of layer ``layer`` (from 0), None where it sees all keys."""
        return self.window if self.pattern[layer % len(self.pattern)] == "L" else None

    def layer_value(self, layer: int) -> str:
        """How layer ``layer`` makes its values."""
        return self.first_value if layer == 0 and self.first_value is not None else self.value

    def starts_at_zero(self, branch: str) -> bool:
        """Whether the last projection of the ``attention`` or ``mlp`` branch is zero at init.

        Not where the skip beside it is removed: all signals and gradients would be zero for ever.
        """
        own = branch == "attention" and self.block == "sequential"
        skip = self.attention_skip if own else self.mlp_skip
        return self.output_init == "zero" and skip != 0

    def branch_norm(self, layer: int, branch: str) -> str:
        """The norm before the ``attention`` or ``mlp`` branch of layer ``layer``."""
        return self.norm if self.norms == "all" or (layer, branch) == (0, "attention") else "none"


def check_size(name: str, value: Any) -> None:
    """Raise ``ValueError`` for what is not an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise SoftmapError(f"{name} must be an integer, found {value!r}")
    if value < 1:
        raise SoftmapError(f"{name} must be at least 1, found {value}")


def _check_type(name: str, value: Any, default: Any) -> None:
    """Numbers and switches may come from a YAML file or a command line: refuse other types."""
    if isinstance(default, bool):
        ok, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, float) or name == "qk_norm_eps":
        ok = value is default or (isinstance(value, int | float) and not isinstance(value, bool))
        expected = "a number"
    elif isinstance(default, int) or name == "window":
        ok = (isinstance(value, int) and not isinstance(value, bool)) or value is default
        expected = "an integer"
    else:
        ok, expected = isinstance(value, str) or value is default, "a name"
    if not ok:
        raise SoftmapError(f"{name} must be {expected}, found {value!r}")
