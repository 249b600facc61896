"""Attention with an edited map: one function, several exact backends."""

from softmap.ops.attention import (
    BACKENDS,
    attention,
    attention_map,
    choose,
    explain,
    make_call,
)

__all__ = ["BACKENDS", "attention", "attention_map", "choose", "explain", "make_call"]
