"""``SoftmapConfig``: the sizes and the variant of a model, as transformers stores them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import GenerationConfig, PreTrainedConfig

from softmap.errors import SoftmapError, nearest
from softmap.hf.trust import ConfigFiles, is_sealed
from softmap.nn import ModelConfig

# Fields of ModelConfig under the same names.
_SHARED = tuple(f.name for f in dataclasses.fields(ModelConfig))

# Read by transformers from any configuration, but fields of none of its classes.
_THEIRS = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "tokenizer_class",
    "torch_dtype",
)

_FIELDS = tuple(f.name for f in dataclasses.fields(PreTrainedConfig))

# Fields of transformers for features that softmap lacks, with the values that do not use them.
_REFUSED: dict[str, tuple] = {
    "model_type": ("softmap",),
    "chunk_size_feed_forward": (0,),
    "is_encoder_decoder": (False,),
    "per_layer_config": (None,),
    "quantization_config": (None,),
    "problem_type": (
        None,
        "regression",
        "single_label_classification",
        "multi_label_classification",
    ),
}


class SoftmapConfig(ConfigFiles, PreTrainedConfig):  # type: ignore[misc]  # its arguments go on
    """The configuration of every variant; its fields are those of [`softmap.nn.ModelConfig`][].

    It is saved with its defaults resolved, so that a later change of a default does not change a
    saved model. Raises ``ValueError`` for an unknown variant, field or size.
    """

    model_type = "softmap"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (the Trainer adds a list)

    auto_map: ClassVar[dict[str, str]] = {}  # TRL reads it; saved where it is given

    variant: Any = ModelConfig.variant
    vocab_size: int = ModelConfig.vocab_size
    hidden_size: int = ModelConfig.hidden_size
    num_hidden_layers: int = ModelConfig.num_hidden_layers
    num_attention_heads: int = ModelConfig.num_attention_heads
    num_key_value_heads: int | None = ModelConfig.num_key_value_heads
    head_dim: int | None = ModelConfig.head_dim
    intermediate_size: int | None = ModelConfig.intermediate_size
    max_position_embeddings: int = ModelConfig.max_position_embeddings
    tie_word_embeddings: bool = ModelConfig.tie_word_embeddings
    initializer_range: float | None = ModelConfig.initializer_range
    impl: str = ModelConfig.impl
    backbone: dict[str, Any] | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        _check_type(kwargs.get("model_type"))
        _check_names(kwargs, list(type(self).__dataclass_fields__))
        _check_values({**vars(self), **kwargs})
        kwargs.pop("per_layer_config", None)
        kwargs.pop("quantization_config", None)
        self._generation = {n: kwargs.pop(n) for n in _generation_names() if n in kwargs}
        given = {} if self.backbone is None else self.backbone
        self.backbone = dict(given) if isinstance(given, Mapping) else given
        if not is_sealed(self):
            self.resolve()
        super().__post_init__(**kwargs)

    def resolve(self) -> None:
        """Check the variant and the sizes together, and fill in their defaults."""
        _check_values(vars(self))
        config = self.model_config()
        self.variant = config.composition.label
        self.intermediate_size = config.width
        self.num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.initializer_range = config.embedding_std
        config.resolved_backbone  # noqa: B018  (raises for a field that does not exist)

    def model_config(self) -> ModelConfig:
        """Returns the torch-only configuration with these fields."""
        return ModelConfig(**{name: getattr(self, name) for name in _SHARED})

    @property
    def generation(self) -> dict[str, Any]:
        """Options of ``generate`` that were given here; the model moves them to its own
        ``generation_config``, and they are saved with that.
        """
        return self._generation

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as plain data, without those of ``generate``."""
        return {name: value for name, value in super().to_dict().items() if name != "_generation"}


def _generation_names() -> list[str]:
    """Returns the options of ``generate`` alone; some, such as ``output_attentions``, are fields of
    both.
    """
    both = {*_THEIRS, *_FIELDS}
    return [name for name in GenerationConfig().to_dict() if name not in both]


def _check_type(given: Any) -> None:
    if str(given).startswith("softmap-"):
        raise SoftmapError(
            f"this is a {given} model, of another family with softmap attention in some layers: "
            "expected to be loaded with AutoModelForCausalLM, not as a softmap model"
        )


def _check_values(given: Mapping[str, Any]) -> None:
    for name, allowed in _REFUSED.items():
        value = given.get(name, allowed[0])
        if not any(value is a or (value == a and type(value) is type(a)) for a in allowed):
            expected = " or ".join(map(repr, allowed))
            raise SoftmapError(f"{name} must be {expected} for softmap, found {value!r}")
    if not isinstance(use_cache := given.get("use_cache"), bool):
        raise SoftmapError(f"use_cache must be True or False, found {use_cache!r}")
    dtype = given.get("dtype") or given.get("torch_dtype")
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise SoftmapError(f"dtype must be the name of one of torch's, found {dtype!r}")


def _check_names(given: dict[str, Any], fields: list[str]) -> None:
    """Raise ``ValueError`` for a field that is neither ours nor transformers' own.

    Theirs are the fields of the base class, those of generation, those in [`_THEIRS`][] and private
    ones. Any other would be stored and never read.
    """
    theirs = {*_THEIRS, *_REFUSED, *_FIELDS, *_generation_names()}
    for name in given:
        if not name.startswith("_") and name not in theirs:
            known = [f for f in fields if not f.startswith("_")]
            raise SoftmapError(
                f"no configuration field {name!r}{nearest(name, known)}; "
                f"softmap's are {', '.join(_SHARED)}"
            )
