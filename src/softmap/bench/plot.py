"""Time and memory against the number of tokens, from a result of ``softmap bench op``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from softmap.bench import save
from softmap.errors import SoftmapError
from softmap.lab.plan import slug
from softmap.report import theme
from softmap.report.marks import SHAPES
from softmap.report.page import VEGA_LITE

Row = dict[str, Any]
PAPER = {"light": "#ffffff", "dark": "#15191e"}
SUFFIX = {"light": "", "dark": "-dark"}
SDPA = "SDPA, plain attention"


Picture = tuple[Path, str | bytes]


def plot(file: Path, folder: Path) -> list[Picture]:
    """Returns, for each variant and theme, an SVG with its path, and a PNG of the light one.

    The names are ``STEM-VARIANT.svg`` and ``STEM-VARIANT-dark.svg``. Raises ``SoftmapError`` where
    nothing was timed at two lengths.
    """
    with save.drawing_from(file):
        return _pictures(file, folder)


def _pictures(file: Path, folder: Path) -> list[Picture]:
    found = save.load(file)
    points = list(_points(found))
    drawn: list[Picture] = []
    for variant in dict.fromkeys(p["variant"] for p in points):
        mine = [p for p in points if p["variant"] == variant]
        if len({p["tokens"] for p in mine}) > 1:
            drawn += _draw(mine, _title(found, variant), folder, f"{file.stem}-{slug(variant)}")
    if not drawn:
        raise SoftmapError(f"{file}: expected a result of bench op with several --tokens")
    return drawn


def _points(found: dict[str, Any]) -> Iterator[Row]:
    for case in found["cases"] if found["kind"] == "op" else []:
        for row in case["rows"]:
            if row["status"] != "timed" or (row["plain"] and row["candidate"] != row["sdpa"]):
                continue
            yield {
                "variant": case["variant"],
                "tokens": case["tokens"],
                "series": SDPA if row["plain"] else row["candidate"],
                "ms": 1e3 * row["seconds"]["median"],
                "low": 1e3 * row["seconds"]["low"],
                "high": 1e3 * row["seconds"]["high"],
                "MB": (row["peak_bytes"] or 0) / 1e6 or None,
            }


def _title(found: dict[str, Any], variant: str) -> dict[str, Any]:
    case = next(c for c in found["cases"] if c["variant"] == variant)
    words = {"both": "forward + backward"}.get(case["direction"], case["direction"])
    device = found["device"]
    threads = f", threads: {device['threads']}" if device["kind"] == "cpu" else ""
    sizes = f"B{case['batch']} H{case['heads']} d{case['head_dim']} {case['dtype']}"
    return {"text": f"{variant}: {words}", "subtitle": f"{sizes}; {device['name']}{threads}"}


def _draw(points: list[Row], title: dict[str, Any], folder: Path, stem: str) -> list[Picture]:
    labels = sorted(dict.fromkeys(p["series"] for p in points), key=lambda name: name != SDPA)
    drawn: list[Picture] = []
    for name, svg in svgs(_spec(points, labels) | {"title": title}, slice(None)):
        path = folder / f"{stem}{SUFFIX[name]}.svg"
        drawn.append((path, svg))
        if name == "light":
            drawn.append((path.with_suffix(".png"), vl_convert.svg_to_png(svg, scale=2)))
    return drawn


def svgs(spec: dict[str, Any], hues: slice) -> Iterator[tuple[str, str]]:
    """Yields ("light" or "dark", the chart on that background), in these of the theme's hues."""
    for name, paper in PAPER.items():
        config = theme.config(theme.HUES[name][hues], theme.INKS[name], theme.PRINT_FONTS)
        config |= {"background": paper}
        yield (
            name,
            vl_convert.vegalite_to_svg(spec | {"padding": 16}, vl_version=VEGA_LITE, config=config),
        )


def _spec(points: list[Row], labels: list[str]) -> dict[str, Any]:
    panels = [
        _panel(points, labels, "ms", "Time (ms)", spread=True),
        _panel([p for p in points if p["MB"]], labels, "MB", "Peak memory (MB)", spread=False),
    ]
    spec: dict[str, Any] = alt.hconcat(*panels, spacing=40).to_dict()
    return spec


def _panel(points: list[Row], labels: list[str], field: str, title: str, *, spread: bool) -> Any:
    ticks = sorted({p["tokens"] for p in points})
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("tokens:Q", title="Tokens",
                scale=alt.Scale(type="log", base=2, nice=False, padding=16),
                axis=alt.Axis(values=ticks, format="d")),
        y=alt.Y(f"{field}:Q", title=title, scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~g", tickCount=3)),
        color=alt.Color("series:N", title=None, scale=alt.Scale(domain=labels),
                        legend=alt.Legend(orient="bottom", columns=4)),
    )  # fmt: skip
    scale = alt.Scale(domain=labels, range=list(SHAPES))
    points_ = base.mark_point(filled=True, size=70, opacity=1)
    layers = [
        base.mark_line(strokeWidth=2),
        points_.encode(shape=alt.Shape("series:N", title=None, scale=scale)),
    ]
    if spread:
        layers.append(base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q"))
    return alt.layer(*layers).properties(width=330, height=260)
