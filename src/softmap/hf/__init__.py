"""The transformers model classes; importing this registers them with its Auto classes."""

from softmap.extras import need

__needs__ = need(__name__, "transformers", "safetensors")

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)
from transformers.models.auto import modeling_auto

from softmap.hf.cache import SoftmapCache
from softmap.hf.classification import SoftmapForSequenceClassification
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.graft import graft
from softmap.hf.modeling import SoftmapForCausalLM, SoftmapModel
from softmap.hf.scalars import register as register_scalars
from softmap.hf.swap import swap
from softmap.hf.swapped.models import register as register_swapped

AutoConfig.register("softmap", SoftmapConfig, exist_ok=True)
AutoModel.register(SoftmapConfig, SoftmapModel, exist_ok=True)
AutoModelForCausalLM.register(SoftmapConfig, SoftmapForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    SoftmapConfig, SoftmapForSequenceClassification, exist_ok=True
)
register_scalars()
register_swapped()
# Label smoothing in the Trainer shifts the labels of the models that are named here, and pipelines
# serve them; registering a class does not add its name.
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["softmap"] = "SoftmapForCausalLM"
modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES["softmap"] = (
    "SoftmapForSequenceClassification"
)

__all__ = [
    "SoftmapCache",
    "SoftmapConfig",
    "SoftmapForCausalLM",
    "SoftmapForSequenceClassification",
    "SoftmapModel",
    "graft",
    "swap",
]
