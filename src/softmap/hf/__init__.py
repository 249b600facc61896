"""The transformers model class; importing this registers it with ``AutoModelForCausalLM``."""

from transformers import AutoConfig, AutoModelForCausalLM

from softmap.hf.cache import SoftmapCache
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.modeling import SoftmapForCausalLM

AutoConfig.register("softmap", SoftmapConfig, exist_ok=True)
AutoModelForCausalLM.register(SoftmapConfig, SoftmapForCausalLM, exist_ok=True)

__all__ = ["SoftmapCache", "SoftmapConfig", "SoftmapForCausalLM"]
