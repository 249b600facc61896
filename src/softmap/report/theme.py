"""Colours and chart style: one fixed colour, dash and shape per variant, in light and dark.

The seven hues were chosen for a smallest CIE Lab distance of 17 (light) and 21 (dark) between any
two of them and the control's grey, for normal vision and for simulated protanopia, deuteranopia
and tritanopia, at a contrast of at least 3 to 1 with the page. From the eighth variant on the hues
repeat with another dash; shapes differ from the first, so that colour never carries alone.
"""

from __future__ import annotations

from typing import Any

HUES = {
    "light": ("#1b7fdc", "#b83708", "#0aa879", "#d071af", "#b68b02", "#115b95", "#933a6a"),
    "dark": ("#4a97e0", "#e77021", "#3bb67f", "#f27fbf", "#f2d657", "#a6d5ff", "#b5688a"),
}
CONTROL = {"light": "#33373d", "dark": "#e4e6e9"}
INK = {"light": "#23272c", "dark": "#e4e6e9"}
QUIET = {"light": "#5b626b", "dark": "#a9b0b8"}
GRID = {"light": "#e6e7e9", "dark": "#2c3238"}
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
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
FONTS = 'system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'
PRINT_FONTS = "Liberation Sans, Arial, Helvetica, sans-serif"


def colours(count: int, theme: str) -> list[str]:
    """Colours of ``count`` variants, the control (first) in neutral grey."""
    hues = HUES[theme]
    return [CONTROL[theme], *(hues[i % len(hues)] for i in range(count - 1))][:count]


def shapes(count: int) -> list[str]:
    """Point shapes, the control a circle."""
    return [SHAPES[i % len(SHAPES)] for i in range(count)]


def marks(count: int) -> list[dict[str, str]]:
    """For each variant the SVG path of its shape (24 x 12 units) and its stroke-dasharray."""
    return [
        {"path": PATHS[shape], "dash": "none" if dash == DASHES[0] else " ".join(map(str, dash))}
        for shape, dash in zip(shapes(count), dashes(count), strict=True)
    ]


def dashes(count: int) -> list[list[int]]:
    """Line dashes: solid for the control and the first seven, then one pattern per seven."""
    return [DASHES[0], *(DASHES[i // 7 % len(DASHES)] for i in range(count - 1))][:count]


def config(count: int, theme: str, fonts: str = FONTS) -> dict[str, Any]:
    """A Vega-Lite config: quiet axes, horizontal grid lines, the variants' colours."""
    text = {"labelColor": QUIET[theme], "titleColor": QUIET[theme]}
    axis = {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": GRID[theme],
        "domainColor": QUIET[theme],
        "tickColor": QUIET[theme],
        "labelLimit": 190,
        **text,
    }
    return {
        "background": "transparent",
        "font": fonts,
        "view": {"stroke": None},
        "range": {"category": colours(count, theme)},
        "axis": axis,
        "axisX": {"grid": False, "ticks": True},
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "symbolOpacity": 1,
            "labelColor": INK[theme],
            "labelFontSize": 12,
            "labelLimit": 260,
        },
        "title": {
            "anchor": "start",
            "color": INK[theme],
            "fontSize": 17,
            "subtitleColor": QUIET[theme],
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
            "offset": 14,
        },
        "text": {"color": INK[theme]},
        "rule": {"color": QUIET[theme]},
    }
