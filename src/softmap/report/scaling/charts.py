"""Pictures of a sweep: the points with their laws, the ratios at equal loss."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from softmap.report.marks import marks
from softmap.report.scaling.law import Law
from softmap.report.style import LOSS, VARIANT, Chart, Style, log_axis, zero
from softmap.report.words import si

Row = dict[str, Any]
STEPS = 24  #: of a drawn law
TITLES = {
    "parameters": "Parameters for equal loss", "tokens": "Tokens for equal loss",
    "compute": "FLOPs for equal loss", "Sc": "Compute gain Sc", "Sw": "Time gain Sw",
}  # fmt: skip


def charts(found: dict[str, Any]) -> list[Chart]:
    """Returns the charts of what [`summary`][softmap.report.scaling.summary.summary] returned."""
    labels = list(found["variants"])
    style = Style(labels, marks(labels))
    made = [_laws(style, found), _forest(style, found)]
    return [chart for chart in made if chart is not None]


def _laws(style: Style, found: dict[str, Any]) -> Chart:
    """Returns the chart of loss against tokens, a line for each size."""
    points = [
        {"variant": label, "size": si(p["parameters"]), **p}
        for label, one in found["variants"].items()
        for p in one["points"]
    ]
    lines = [row for label, one in found["variants"].items() for row in _line(label, one)]
    tokens = sorted({p["tokens"] for p in points})
    x = alt.X(
        "tokens:Q", title="Training tokens, log scale",
        **log_axis(0.95 * tokens[0], 1.05 * tokens[-1], format=".3~s"),
    )  # fmt: skip
    y = alt.Y("loss:Q", title=LOSS, scale=alt.Scale(zero=False))
    tooltip = [
        VARIANT, alt.Tooltip("size:N", title="Parameters"),
        alt.Tooltip("tokens:Q", title="Tokens", format=".3s"),
        alt.Tooltip("loss:Q", title="Measured", format=".4f"),
        alt.Tooltip("fitted:Q", title="By the law", format=".4f"),
    ]  # fmt: skip
    base = style.base(points).encode(x=x, y=y, color=style.colour, opacity=style.opacity())
    layers = [
        style.base(lines)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=x, y=y, color=style.colour, detail="size:N", strokeDash=style.dash,
            opacity=style.opacity(0.7),
        ),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            shape=style.shape, tooltip=tooltip
        ),
    ]  # fmt: skip
    caption = (
        "Points: held-out loss after each decay, the mean of the runs; from above, the sizes from "
        "the smallest to the largest. Lines: the fitted law of each variant."
    )
    return Chart("laws", "Loss over tokens and parameters", caption, style.finish(layers, 360))


def _line(label: str, one: dict[str, Any]) -> list[Row]:
    law = Law(**{name: one["law"][name]["value"] for name in "EABab"})
    rows = []
    for size in dict.fromkeys(p["parameters"] for p in one["points"]):
        tokens = [p["tokens"] for p in one["points"] if p["parameters"] == size]
        for d in np.geomspace(min(tokens), max(tokens), STEPS):
            loss = float(law.loss(size, d))
            rows.append({"variant": label, "size": si(size), "tokens": float(d), "loss": loss})
    return rows


def _forest(style: Style, found: dict[str, Any]) -> Chart | None:
    """Returns the chart of the ratios with their intervals, by kind and within each by variant."""
    rows = [
        {"variant": label, "kind": TITLES[kind], **_ends(one["ratios"][kind])}
        for kind in TITLES
        for label, one in found["variants"].items()
        if one["ratios"] and one["ratios"][kind]["value"] is not None
    ]
    if not rows:
        return None
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    x = alt.X("low:Q", title="Over the control's, log scale", **log_axis(low / 1.1, high * 1.1))
    base = style.base(rows).encode(
        y=alt.Y("kind:N", title=None, sort=list(TITLES.values())),
        yOffset=alt.YOffset("variant:N", sort=style.labels),
        color=style.plain_colour, opacity=style.opacity(),
        tooltip=[VARIANT, "kind:N", *(alt.Tooltip(f"{k}:Q", format=".3f") for k in ENDS)],
    )  # fmt: skip
    layers = [
        zero(x=alt.datum(1)),
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x="value:Q", shape=style.plain_shape
        ),
    ]
    caption = "With intervals. The first three are better left of 1, the gains right of it."
    height = max(160, 22 * len(rows))
    return Chart("ratios", "At equal loss", caption, style.finish(layers, height))


ENDS = ("value", "low", "high")
FAR = 20.0  #: how far an interval without an end is drawn, times its value


def _ends(one: dict[str, float | None]) -> Row:
    value = one["value"] or 1.0
    return {
        "value": value,
        "low": max(one["low"] or value / FAR, value / FAR),
        "high": min(one["high"] or value * FAR, value * FAR),
    }
