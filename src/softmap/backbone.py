"""What a block has besides the edits of its map: norms, skips, MLP, positions, windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import Checked, Range, check

Norm = Literal["rmsnorm", "layernorm", "none"]
Projection = Literal["linear", "identity", "residual", "orthogonal"]
Epsilon = Annotated[float, Range(above=0, high=1)]
Size = Annotated[int, Range(1, 2**31)]


@dataclass(frozen=True)
class Backbone(Checked):
    """The fields that a variant or a recipe may set; the defaults are Transformer++.

    A block computes, with every s, g from the fields below (s_a = attention_skip, ...):

        sequential:  x <- s_a x + g_a Attn(Norm x);  x <- s_m x + g_m MLP(Norm x)
        parallel:    x <- s_m x + g_a Attn(Norm x) + g_m MLP(Norm x)

    In the parallel block the one skip belongs to the MLP's fields.
    """

    block: Literal["sequential", "parallel"] = "sequential"
    norm: Norm = "rmsnorm"
    # "first": of the blocks' norms only block 1's, before attention, is left
    norms: Literal["all", "first"] = "all"
    shared_norm: bool = True  # parallel block: both branches read one norm (False: one each)
    final_norm: bool = True
    norm_eps: Epsilon = 1e-5
    eps_outside: bool = False  # x / (rms + eps) instead of x / sqrt(ms + eps)
    mlp: Literal["swiglu", "gelu", "relu"] = "swiglu"
    position: Literal["rope", "learned", "sinusoidal", "none"] = "rope"
    rope_theta: Annotated[float, Range(above=0)] = 10000.0
    rotary_fraction: Annotated[float, Range(above=0, high=1)] = 1.0
    rotary_interleaved: bool = False
    qk_norm: bool = False  # RMSNorm of each head's query and key, before RoPE
    qk_norm_eps: Epsilon | None = None  # where it differs from norm_eps
    bias: bool = False
    attention_skip: float = 1.0
    attention_gain: float = 1.0
    mlp_skip: float = 1.0
    mlp_gain: float = 1.0
    trainable_gains: bool = False
    value: Projection = "linear"
    first_value: Projection | None = None  # the first layer's, where it differs
    output: Projection = "linear"
    zero_query: bool = False
    query_expansion: Annotated[int, Range(1, 64)] = 1  # query heads per head (DIFF V2: 2)
    # of the last projection of each branch that has a skip
    output_init: Literal["zero", "default"] = "zero"
    pattern: str = "G"  # one letter a layer, repeated: L local window, G global
    window: Size | None = None  # keys that a local layer's row sees, its own included

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pattern or set(self.pattern) - set("LG") or len(self.pattern) > 1000:
            raise SoftmapError(f"pattern: expected letters L and G, found {shown(self.pattern)}")
        if "L" in self.pattern and self.window is None:
            raise SoftmapError(
                f"pattern {self.pattern!r} has local layers: expected window >= 1, "
                f"found {self.window}"
            )
        if "L" not in self.pattern and self.window is not None:
            raise SoftmapError(
                f"window {self.window} needs local layers: expected L in pattern, "
                f"found {self.pattern!r}"
            )

    @classmethod
    def of(cls, *sources: Mapping[str, Any]) -> Backbone:
        """Returns the defaults, updated by each mapping in turn. Raises ``ValueError`` for an
        unknown field.
        """
        given = {k: v for source in sources for k, v in source.items()}
        cls.check_names(given)
        return cls(**given)

    def changed(self) -> dict[str, Any]:
        """Returns the fields that differ from Transformer++."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def check_names(cls, given: Iterable[Any]) -> None:
        """Raise ``ValueError`` for a name that is not a field."""
        fields = [f.name for f in dataclasses.fields(cls)]
        for name in given:
            if name not in fields:
                raise SoftmapError(
                    f"no backbone field {shown(name)}{nearest(str(name), fields)}; "
                    f"fields: {', '.join(fields)}"
                )

    def layer_window(self, layer: int) -> int | None:
        """Returns the window of layer ``layer`` (from 0), None where it sees all keys."""
        return self.window if self.pattern[layer % len(self.pattern)] == "L" else None

    def layer_value(self, layer: int) -> str:
        """Returns the kind of value projection of layer ``layer``."""
        return self.first_value if layer == 0 and self.first_value is not None else self.value

    def starts_at_zero(self, branch: str) -> bool:
        """Whether the last projection of the ``attention`` or ``mlp`` branch is zero at init.

        It is not where the skip beside it is removed: all signals and gradients would stay zero.
        """
        own = branch == "attention" and self.block == "sequential"
        skip = self.attention_skip if own else self.mlp_skip
        return self.output_init == "zero" and skip != 0

    def branch_norm(self, layer: int, branch: str) -> str:
        """Returns the norm before the ``attention`` or ``mlp`` branch of layer ``layer``."""
        return self.norm if self.norms == "all" or (layer, branch) == (0, "attention") else "none"


def check_size(name: str, value: Any) -> None:
    """Raise ``ValueError`` for what is not an integer of at least 1."""
    check(name, value, Size)
