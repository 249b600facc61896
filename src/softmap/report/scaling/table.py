"""A sweep in words, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softmap.report.scaling.equal import RATIOS
from softmap.report.words import si

LAW = ("E", "a", "b", "alpha")
NEVER = "never"


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the laws, the ratios and the caveats."""
    width = max(map(len, found["variants"]))
    yield "L(N, D) = E + A / N^a + B / D^b, alpha = ab / (a + b)"
    yield f"{'':<{width}}" + "".join(f"  {name:<26}" for name in LAW)
    for label, one in found["variants"].items():
        yield f"{label:<{width}}" + "".join(f"  {span(one['law'][n]):<26}" for n in LAW)
    if len(found["variants"]) > 1:
        yield ""
        yield at(found)
        yield f"{'':<{width}}" + "".join(f"  {name:<24}" for name in RATIOS)
        for label, one in found["variants"].items():
            if one["ratios"]:
                cells = (f"  {span(one['ratios'][name]):<24}" for name in RATIOS)
                yield f"{label:<{width}}" + "".join(cells)
    yield from found["caveats"]


def at(found: dict[str, Any]) -> str:
    """Returns in words where the laws are compared."""
    place = found["at"]
    return (
        f"For the loss of {found['control']} with {si(place['parameters'])} parameters and "
        f"{si(place['tokens'])} tokens ({place['loss']:.3f}), over its own:"
    )


def span(one: dict[str, float | None]) -> str:
    """Returns ``0.92 [0.81, 1.05]``; what a law never reaches has no number."""
    value, low, high = (one[key] for key in ("value", "low", "high"))
    middle = NEVER if value is None else f"{value:.3g}"
    ends = ["\N{INFINITY}" if end is None else f"{end:.3g}" for end in (low, high)]
    return f"{middle} [{ends[0]}, {ends[1]}]"
