"""Causal, self- or cross-attention (``maps.KINDS``): which a call is, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softmap.errors import SoftmapError, shown
from softmap.maps import Edit, check_defined
from softmap.ops.options import AttentionOptions

# What belongs to the tokens of one sequence, or to the tokens before a row.
_OF_ONE_SEQUENCE = {
    "window": "goes by the places of one sequence's tokens",
    "documents": "are packed in one sequence",
}


def kind_of(queries: int, keys: int, options: AttentionOptions) -> str:
    """Returns one of ``maps.KINDS``: without ``causal`` the keys are another sequence's if they
    have an input of their own, ``key_x``, or differ in number from the queries.
    """
    causal = options.get("causal", True)
    if not isinstance(causal, bool):
        raise SoftmapError(f"causal must be True or False, found {shown(causal)}")
    own = options.get("key_x") is not None
    if causal:
        if own:
            raise SoftmapError(
                "key_x is the input of another sequence's keys: expected causal=False with it, "
                "found causal=True"
            )
        return "causal"
    return "cross" if own or queries != keys else "self"


def check_kind(kind: str, edits: Sequence[Edit], options: AttentionOptions) -> None:
    """Raise ``ValueError`` for an option or an edit that this kind of attention does not have."""
    given: Any = options
    if kind != "causal" and given.get("running") is not None:
        raise SoftmapError(
            "running is the sum over earlier tokens: expected None with causal=False, found it"
        )
    for name, why in _OF_ONE_SEQUENCE.items() if kind == "cross" else ():
        if given.get(name) is not None:
            raise SoftmapError(
                f"{name} {why}: expected None in cross-attention (keys of another sequence), "
                f"found {name}"
            )
    check_defined(edits, kind)
