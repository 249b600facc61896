"""Pictures of a suite's answers, in the style of the other pages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from softmap.report.style import Chart, Style

Json = Mapping[str, Any]
Row = dict[str, Any]
BARS = "Bars: one standard error between runs, or with single runs 95 % over instances."


def charts(style: Style, suites: Mapping[str, Json]) -> dict[str, list[Chart]]:
    """Returns the pictures of each suite, as far as there are answers
    ([`softmap.report.questions`][]).
    """
    return {name: _of_suite(style, name, suite) for name, suite in suites.items()}


def _of_suite(style: Style, name: str, suite: Json) -> list[Chart]:
    measures = {one["name"]: one for one in suite["measures"]}
    made = []
    for picture in suite["pictures"]:
        records = _records(picture, suite["cells"])
        if len({one["x"] for one in records}) < 2:
            continue
        key = re.sub(r"\W+", "_", f"{name}_{picture['measure']}_{picture['x']}")
        measure = measures[picture["measure"]]
        draw = _heat if picture["y"] else _line
        caption = picture["caption"] if picture["y"] else f"{picture['caption']} {BARS}".strip()
        made.append(Chart(key, measure["title"], caption, draw(style, picture, measure, records)))
    return made


def _records(picture: Json, cells: Sequence[Json]) -> list[Row]:
    wanted = {picture["x"], picture["y"]} - {None}
    found = []
    for cell in cells:
        if cell["measure"] != picture["measure"] or cell["at"] is None or set(cell["at"]) != wanted:
            continue
        for label, numbers in cell["models"].items():
            low, high = _bar(numbers)
            one = {"variant": label, "x": cell["at"][picture["x"]], "value": numbers["mean"]}
            one |= {"low": low, "high": high}
            found.append(one | ({"y": cell["at"][picture["y"]]} if picture["y"] else {}))
    return found


def _bar(numbers: Mapping[str, Any]) -> tuple[float, float]:
    mean, stderr = numbers["mean"], numbers["run_stderr"]
    if stderr is not None:
        return mean - stderr, mean + stderr
    run = next(iter(numbers["runs"].values()))
    return (mean, mean) if run["low"] is None else (run["low"], run["high"])


def _line(style: Style, picture: Json, measure: Json, records: list[Row]) -> dict[str, Any]:
    """Returns points with bars, joined by a line where the condition is a number."""
    numeric = all(isinstance(one["x"], int | float) for one in records)
    y = alt.Scale(domain=[0, 1]) if measure["unit"] == "share" and _wide(records) else None
    y = y or alt.Scale(zero=False)
    base = style.base(records).encode(
        x=_axis(picture, records, numeric), color=style.colour, opacity=style.opacity()
    )
    value = alt.Y("value:Q", title=measure["title"], scale=y)
    tooltip = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("x:N", title=picture["x_title"]),
        alt.Tooltip("value:Q", title=measure["title"], format=".4f"),
    ]
    layers = [
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=y), y2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            y=value, shape=style.shape, tooltip=tooltip
        ),
    ]
    if numeric:
        line = base.mark_line(strokeWidth=1.75).encode(y=value, strokeDash=style.dash)
        layers.insert(0, line)
    return style.finish(layers, 300)


def _axis(picture: Json, records: list[Row], numeric: bool) -> alt.X:
    if not numeric:
        order = list(dict.fromkeys(one["x"] for one in records))
        return alt.X("x:N", title=picture["x_title"], sort=order, axis=alt.Axis(labelAngle=0))
    kind = {"type": "log", "base": 2} if picture["log"] else {"zero": False}
    scale = alt.Scale(nice=False, **kind)
    ticks = sorted({one["x"] for one in records})
    axis = alt.Axis(values=ticks, format="~r", labelOverlap="greedy")
    return alt.X("x:Q", title=picture["x_title"], scale=scale, axis=axis)


def _wide(records: list[Row]) -> bool:
    """Whether a share is best seen between 0 and 1."""
    return max(one["value"] for one in records) > 0.25


def _heat(style: Style, picture: Json, measure: Json, records: list[Row]) -> dict[str, Any]:
    """Returns a heat map for each model, one above the other."""
    bounds: dict[str, Any] = {"domain": [0, 1]} if measure["unit"] == "share" else {}
    scale = alt.Scale(scheme="viridis", **bounds)
    colour = alt.Color("value:Q", title=measure["title"], scale=scale)
    chart = (
        style.base(records)
        .mark_rect()
        .encode(
            x=alt.X("x:O", title=picture["x_title"]),
            y=alt.Y("y:O", title=picture["y_title"], sort="descending"),
            color=colour,
            tooltip=["variant:N", "x:O", "y:O", alt.Tooltip("value:Q", format=".3f")],
        )
        .properties(width=420, height=110)
        .facet(row=alt.Row("variant:N", title=None, sort=style.labels))
    )
    shown = alt.param(name="shown", value=style.labels)
    focus = alt.param(name="focus", value=None)
    spec: dict[str, Any] = chart.add_params(shown, focus).to_dict()
    return spec
