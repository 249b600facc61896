"""Layers and models built from the variants; torch only."""

from softmap.nn import accounting
from softmap.nn.attention import Attention
from softmap.nn.backbone import Backbone
from softmap.nn.block import Block
from softmap.nn.cache import LayerCache
from softmap.nn.config import ModelConfig
from softmap.nn.decoder import Decoder, attention_maps

__all__ = [
    "Attention",
    "Backbone",
    "Block",
    "Decoder",
    "LayerCache",
    "ModelConfig",
    "accounting",
    "attention_maps",
]
