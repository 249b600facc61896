"""The sizes of a model and the variant it is built from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from softmap.backbone import Backbone, Size
from softmap.errors import SoftmapError
from softmap.fields import Checked, Range
from softmap.variants import Composition, load

Width = Annotated[int, Range(1, 2**20)]
Layers = Annotated[int, Range(1, 4096)]
Heads = Annotated[int, Range(1, 2**14)]


@dataclass(frozen=True)
class ModelConfig(Checked):
    """A decoder-only language model. Names follow transformers' LLaMA configuration.

    Attributes:
        variant: anything [`softmap.variants.load`][] takes. num_attention_heads counts the heads of
            a plain Transformer of that width; variants derive theirs (diff: half as many, twice as
            wide).
        num_key_value_heads: fewer gives grouped-query attention.
        intermediate_size: MLP width, by default 8/3 hidden_size (SwiGLU) or 4 hidden_size, rounded
            up to 8.
        backbone: fields of [`softmap.nn.Backbone`][], over what the variant sets.
        initializer_range: standard deviation of the embeddings, by default 1/sqrt(hidden_size):
            logits of a tied head then start with unit variance, and Adam's first steps, each as
            large as the learning rate, do not outrun them.
    """

    variant: Any = "transformer++"
    vocab_size: Size = 50304
    hidden_size: Width = 768
    num_hidden_layers: Layers = 12
    num_attention_heads: Heads = 12
    num_key_value_heads: Heads | None = None
    head_dim: Width | None = None
    intermediate_size: Size | None = None
    max_position_embeddings: Size = 2048
    tie_word_embeddings: bool = True
    initializer_range: Annotated[float, Range(above=0)] | None = None
    impl: str = "auto"
    backbone: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise SoftmapError(
                f"hidden_size must be a multiple of num_attention_heads, found {self.hidden_size} "
                f"and {self.num_attention_heads}; or give head_dim"
            )

    @property
    def composition(self) -> Composition:
        """The edits and backbone fields that ``variant`` names."""
        return load(self.variant)

    @property
    def resolved_backbone(self) -> Backbone:
        """The backbone: the variant's fields, and over them this configuration's."""
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
