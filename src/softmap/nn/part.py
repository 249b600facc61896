"""The part of a variant that concerns attention alone, and so fits into another model's block."""

from __future__ import annotations

import dataclasses
from typing import Any

from softmap.backbone import Backbone
from softmap.errors import SoftmapError
from softmap.ops.attention import BACKENDS
from softmap.ops.checks import check_impl
from softmap.variants import graft_form, load

# The fields of a backbone that a layer of attention answers for by itself.
_OWN = ("position", "qk_norm", "qk_norm_eps", "query_expansion", "pattern", "window")


def attention_part(variant: Any) -> str:
    """Returns the canonical name of a variant that changes attention alone.

    It may set positions (rotary or none), norms of queries and keys, products and windows. Raises
    ``ValueError`` where it sets another field of [`softmap.nn.Backbone`][]: projections, skips,
    norms and the MLP belong to the block.
    """
    made = load(variant)
    b, default = Backbone.of(made.parts.backbone), Backbone()
    for field in dataclasses.fields(Backbone):
        value = getattr(b, field.name)
        if field.name not in _OWN and value != getattr(default, field.name):
            raise SoftmapError(
                f"only the attention of a variant can be put into another model: {made.label} sets "
                f"{field.name}={value!r} of the block around it, expected none but "
                f"{', '.join(_OWN)}"
            )
    if b.position not in ("rope", "none"):
        raise SoftmapError(
            f"only the attention of a variant can be put into another model: {made.label} adds "
            f"{b.position} positions to the embeddings, expected position=rope or none"
        )
    return made.label


def graft_part(variant: Any) -> str:
    """Returns [`attention_part`][] of the form of a variant whose edits can start as the
    identity.
    """
    return attention_part(graft_form(variant))


def check_backend(impl: Any) -> None:
    """Raise ``ValueError`` unless this is the name of a backend, or ``auto``."""
    check_impl(impl, BACKENDS)
