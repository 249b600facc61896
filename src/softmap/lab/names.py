"""Variants as people type them."""

from __future__ import annotations

from collections.abc import Sequence


def split_variants(given: Sequence[str]) -> list[str]:
    """``["a", "b,c(x=1,y=2)"]`` to ``["a", "b", "c(x=1,y=2)"]``: commas in brackets stay."""
    found, part, depth = [], "", 0
    for char in ",".join(given):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            found.append(part.strip())
            part = ""
        else:
            part += char
    return [name for name in [*found, part.strip()] if name]
