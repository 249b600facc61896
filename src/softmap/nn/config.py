"""The sizes of a model and the variant it is built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from softmap.errors import SoftmapError
from softmap.nn.backbone import Backbone, check_size
from softmap.variants import Composition, load

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "intermediate_size")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only language model. Names follow transformers' LLaMA configuration.

    variant: anything :func:`softmap.variants.load` takes. num_attention_heads counts the heads of a
    plain Transformer of that width; variants derive theirs (diff: half as many, twice as wide).
    num_key_value_heads: fewer gives grouped-query attention. intermediate_size: MLP width, by
    default 8/3 hidden_size (SwiGLU) or 4 hidden_size, rounded up to 8. backbone: fields of
    :class:`softmap.nn.Backbone`, over what the variant sets. initializer_range: standard deviation
    of the embeddings, by default 1/sqrt(hidden_size): logits of a tied head then start with unit
    variance, and Adam's first steps, each as large as the learning rate, do not outrun them.
    """

    variant: Any = "transformer++"
    vocab_size: int = 50304
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True
    initializer_range: float | None = None
    impl: str = "auto"
    backbone: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_size(name, getattr(self, name))
        for name in _OPTIONAL_SIZES:
            if getattr(self, name) is not None:
                check_size(name, getattr(self, name))
        self._check_others()
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise SoftmapError(
                f"hidden_size must be a multiple of num_attention_heads, found {self.hidden_size} "
                f"and {self.num_attention_heads}; or give head_dim"
            )

    def _check_others(self) -> None:
        std = self.initializer_range
        number = isinstance(std, int | float) and not isinstance(std, bool)
        for name, fits, expected in (
            ("initializer_range", std is None or (number and std > 0), "a number above 0"),
            ("tie_word_embeddings", isinstance(self.tie_word_embeddings, bool), "true or false"),
            ("impl", isinstance(self.impl, str), "a name"),
            ("backbone", isinstance(self.backbone, Mapping), "a mapping of fields"),
        ):
            if not fits:
                raise SoftmapError(f"{name} must be {expected}, found {getattr(self, name)!r}")

    @property
    def composition(self) -> Composition:
        return load(self.variant)

    @property
    def resolved_backbone(self) -> Backbone:
        return Backbone.of(self.composition.parts.backbone, self.backbone)

    @property
    def embedding_std(self) -> float:
        """Standard deviation of the embeddings at init, the default filled in."""
        return self.initializer_range or self.hidden_size**-0.5

    @property
    def width(self) -> int:
        """Width of the MLP, defaults filled in."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        gated = self.resolved_backbone.mlp == "swiglu"
        exact = self.hidden_size * 8 / 3 if gated else self.hidden_size * 4
        return -(-int(exact) // 8) * 8
