"""Layers and models built from the variants; torch only."""

from softmap.backbone import Backbone
from softmap.nn import accounting
from softmap.nn.attention import Attention
from softmap.nn.block import Block
from softmap.nn.cache import LayerCache
from softmap.nn.config import ModelConfig
from softmap.nn.context import Context
from softmap.nn.decay import decays, never_decayed
from softmap.nn.decoder import Decoder, attention_maps
from softmap.nn.record import Record
from softmap.nn.share import Share

__all__ = [
    "Attention",
    "Backbone",
    "Block",
    "Context",
    "Decoder",
    "LayerCache",
    "ModelConfig",
    "Record",
    "Share",
    "accounting",
    "attention_maps",
    "decays",
    "never_decayed",
]
