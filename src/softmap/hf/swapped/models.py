"""The classes of models with swapped layers: each family's own, behind softmap's mixins.

They are made from the table of families, registered with the Auto classes as ``softmap-llama`` and
so on, and are members of this module: ``SoftmapLlamaForCausalLM``.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _CAUSAL,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as _CLASSIFIERS,
)

from softmap.hf.swapped.attention import SwappedAttention
from softmap.hf.swapped.base import Swapped, SwappedBase, SwappedCausal
from softmap.hf.swapped.config import SwappedConfig, configuration
from softmap.hf.swapped.kinds import KINDS, Family

_BEFORE = {
    "Model": SwappedBase,
    "ForCausalLM": SwappedCausal,
    "ForSequenceClassification": Swapped,
}


def _made(kind: Family) -> type[SwappedConfig]:
    """Returns a family's configuration class, whose ``classes`` are those of its models."""
    family = getattr(transformers, f"{kind.prefix}Config")
    config = configuration(kind, family)
    config.__module__ = __name__
    own = getattr(transformers, f"{kind.prefix}Model")
    recorded = dict(own._can_record_outputs)
    recorded["attentions"] = [recorded["attentions"], SwappedAttention]
    shared = {"__module__": __name__, "config_class": config, "kind": kind}
    shared |= {"_can_record_outputs": recorded, "_supports_context_parallel": False}
    made: dict[str, Any] = {}
    for suffix, before in _BEFORE.items():
        name = f"{kind.prefix}{suffix}"
        made[name] = type(f"Softmap{name}", (before, getattr(transformers, name)), dict(shared))
    config.classes = made
    return config


CONFIGS = [_made(kind) for kind in KINDS]
MODELS = [model for config in CONFIGS for model in config.classes.values()]
globals().update({made.__name__: made for made in (*CONFIGS, *MODELS)})
# Of each family's own models, and of ours.
CONFIG_OF = {
    each: config
    for config in CONFIGS
    for made in config.classes.values()
    for each in (made, made.__bases__[-1])
}


def register() -> None:
    """Register all of them with the Auto classes, pipelines and the Trainer."""
    for config in CONFIGS:
        base, causal, classifier = config.classes.values()
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base, exist_ok=True)
        AutoModelForCausalLM.register(config, causal, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
        _CAUSAL[config.model_type] = causal.__name__
        _CLASSIFIERS[config.model_type] = classifier.__name__
        _rename_weights(config)


def _rename_weights(config: type[SwappedConfig]) -> None:
    """Rename weights as the family's files do (GPT-NeoX: ``embed_out``)."""
    names = {config.kind.model_type: config.model_type}
    names |= {name: made.__name__ for name, made in config.classes.items()}
    for family, own in names.items():
        if (mapping := get_checkpoint_conversion_mapping(family)) is not None:
            register_checkpoint_conversion_mapping(own, mapping, overwrite=True)
