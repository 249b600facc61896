"""The marks of a variant in every chart and table: a hue, a shape and a dash.

The hue follows from the variant's name alone, so that it is the same on every page, whatever else
is there and whichever run it comes from. Options do not change it: ``dcmha`` and
``dcmha(qk_norm=true)`` are one method in two forms. Variants of one hue on a page differ in shape
and in dash, and shapes differ between hues, too: colour is never the only distinction.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

INK = 0  # of HUES in theme.py; the others are colours
COLOURS = 7
PLAIN = ("transformer++", "transformer")
# Neighbours here have different hues: most pages show one stretch of this list.
SHIPPED = (
    *("diff", "diff2", "dcmha", "dape", "sas", "sas-p", "talking-heads"),
    *("temperature", "gated", "alibi", "kerple", "fire", "v-skipinit", "parallel", "nope"),
)
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
PATHS = {
    "circle": "M7.5 6a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "square": "M8 2h8v8h-8z",
    "triangle-up": "M12 1.2l4.8 8.8h-9.6z",
    "diamond": "M12 .8l4.2 5.2-4.2 5.2-4.2-5.2z",
    "cross": "M10.4 1.2h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "triangle-down": "M12 10.8l4.8-8.8h-9.6z",
    "triangle-right": "M16.8 6l-8.8 4.8v-9.6z",
    "triangle-left": "M7.2 6l8.8 4.8v-9.6z",
}
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))


@dataclass(frozen=True)
class Mark:
    """``hue`` indexes ``theme.HUES``; ``copy`` counts the page's variants of that hue before it."""

    hue: int
    copy: int

    @property
    def shape(self) -> str:
        """The shape of its points."""
        return SHAPES[(self.hue + self.copy) % len(SHAPES)]

    @property
    def dash(self) -> list[int]:
        """The dash of its lines; the first of a hue is solid."""
        return list(DASHES[self.copy % len(DASHES)])

    @property
    def path(self) -> str:
        """The shape as an SVG path of 24 x 12 units."""
        return PATHS[self.shape]

    @property
    def dasharray(self) -> str:
        """The dash as SVG has it."""
        return " ".join(map(str, self.dash)) if self.copy % len(DASHES) else "none"


def marks(variants: Sequence[str]) -> list[Mark]:
    """Returns a mark for each variant, in the order of the page; names may come twice, from two
    runs.
    """
    seen: Counter[int] = Counter()
    found = []
    for variant in variants:
        shade = hue(variant)
        found.append(Mark(shade, seen[shade]))
        seen[shade] += 1
    return found


def hue(variant: str) -> int:
    """Returns the index of a variant's hue: grey for plain controls, one of seven colours for
    others.
    """
    method = re.sub(r"\([^()]*\)", "", variant)
    if method in PLAIN:
        return INK
    place = SHIPPED.index(method) if method in SHIPPED else zlib.crc32(method.encode())
    return 1 + place % COLOURS
