"""Attention with an edited map: one function, several exact backends."""

from softmap.ops.attention import (
    BACKENDS,
    attention,
    attention_map,
    choose,
    explain,
    make_call,
)
from softmap.ops.options import AttentionOptions

__all__ = [
    "BACKENDS",
    "AttentionOptions",
    "attention",
    "attention_map",
    "choose",
    "explain",
    "make_call",
]
