"""Colours and chart style, in light and dark.

The seven hues were chosen for a smallest CIE Lab distance of 17 (light) and 21 (dark) between any
two of them and the grey of the plain controls, for normal vision and for simulated protanopia,
deuteranopia and tritanopia, at a contrast of at least 3 to 1 with the page. Which variant has which
is said in [`softmap.report.marks`][].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

HUES = {
    "light": (
        *("#33373d", "#1b7fdc", "#b83708", "#0aa879"),
        *("#d071af", "#b68b02", "#115b95", "#933a6a"),
    ),
    "dark": (
        *("#e4e6e9", "#4a97e0", "#e77021", "#3bb67f"),
        *("#f27fbf", "#f2d657", "#a6d5ff", "#b5688a"),
    ),
}
FONTS = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'
PRINT_FONTS = "Liberation Sans, Arial, Helvetica, sans-serif"


@dataclass(frozen=True)
class Inks:
    """Colours of text, of quiet text and axes, and of grid lines."""

    ink: str
    quiet: str
    grid: str


INKS = {
    "light": Inks("#23272c", "#5b626b", "#e6e7e9"),
    "dark": Inks("#e4e6e9", "#a9b0b8", "#2c3238"),
    # of the page's style sheet, so that charts follow its theme, on paper too
    "page": Inks("var(--ink)", "var(--quiet)", "var(--grid)"),
}


def of_page(variants: int) -> list[str]:
    """Returns the variants' colours as the page's style sheet names them."""
    return [f"var(--v{index})" for index in range(variants)]


def config(colours: Sequence[str], inks: Inks, fonts: str = FONTS) -> dict[str, Any]:
    """Returns a Vega-Lite config: light axes, horizontal grid lines, the variants' colours in
    order.
    """
    axis = {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": inks.grid,
        "domainColor": inks.quiet,
        "tickColor": inks.quiet,
        "labelColor": inks.quiet,
        "titleColor": inks.quiet,
        "labelLimit": 190,
    }
    return {
        "background": "transparent",
        "font": fonts,
        "view": {"stroke": None},
        "range": {"category": list(colours)},
        "axis": axis,
        "axisX": {"grid": False, "ticks": True},
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "axisQuantitative": {"labelOverlap": "greedy", "labelSeparation": 8},
        "legend": {
            "symbolOpacity": 1,
            "labelColor": inks.ink,
            "labelFontSize": 12,
            "labelLimit": 260,
        },
        "title": {
            "anchor": "start",
            "color": inks.ink,
            "fontSize": 17,
            "subtitleColor": inks.quiet,
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "text": {"color": inks.ink},
        "rule": {"color": inks.quiet},
        "tick": {"color": inks.ink},
    }
