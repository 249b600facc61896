"""``SoftmapConfig``: the sizes and the variant of a model, as transformers stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from softmap.errors import SoftmapError, nearest
from softmap.hf.trust import ConfigFiles, is_sealed
from softmap.nn import ModelConfig

# Fields of ModelConfig under the same names.
_SHARED = (
    "variant",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
    "tie_word_embeddings",
    "initializer_range",
    "impl",
    "backbone",
)

# Read by transformers from any configuration, declared by none of its classes.
_THEIRS = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "loss_type",
    "per_layer_config",
    "quantization_config",
    "tokenizer_class",
)


class SoftmapConfig(ConfigFiles, PreTrainedConfig):  # type: ignore[misc]  # its arguments go on
    """Configuration of every variant; the fields are those of :class:`softmap.nn.ModelConfig`.

    Saved with its defaults resolved at construction, so that a later change of a default does not
    change a saved model. Raises ``ValueError`` for an unknown variant, field or size.
    """

    model_type = "softmap"
    keys_to_ignore_at_inference = ("past_key_values",)

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
    backbone: dict[str, Any] | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _check_names(kwargs, list(type(self).__dataclass_fields__))
        given = {} if self.backbone is None else self.backbone
        self.backbone = dict(given) if isinstance(given, Mapping) else given
        if not is_sealed(self):
            self.resolve()
        super().__post_init__(**kwargs)

    def resolve(self) -> None:
        """Check the variant and the sizes against each other, and fill in their defaults."""
        config = self.model_config()
        self.variant = config.composition.label
        self.intermediate_size = config.width
        self.initializer_range = config.embedding_std
        config.resolved_backbone  # noqa: B018  (raises for a field that does not exist)

    def model_config(self) -> ModelConfig:
        """The torch-only configuration that this one stores."""
        return ModelConfig(**{name: getattr(self, name) for name in _SHARED})


def _check_names(given: dict[str, Any], fields: list[str]) -> None:
    """Raise ``ValueError`` for a name that is neither ours nor transformers' own.

    Theirs are the class's, those of generation (which they move to its own file), those of
    :data:`_THEIRS`, and private ones. Any other would be stored and never read.
    """
    for name in given:
        own = name.startswith("_") or name in _THEIRS or hasattr(PreTrainedConfig, name)
        if not own and name not in GenerationConfig().to_dict():
            known = [f for f in fields if not f.startswith("_")]
            raise SoftmapError(
                f"no configuration field {name!r}{nearest(name, known)}; "
                f"softmap's are {', '.join(_SHARED)}"
            )
