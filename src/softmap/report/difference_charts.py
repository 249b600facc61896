"""Differences from the control with their intervals: by budget, and by position."""

from __future__ import annotations

from typing import Any

import altair as alt

from softmap.report import records
from softmap.report.loss_charts import position_axis
from softmap.report.style import DELTA, VARIANT, Chart, Style, log_axis, zero

Row = dict[str, Any]


# Many bands hide each other; the page chooses which one is shown.
BANDS = "Bands (of a few variants, or of the one pointed at)"
# Em spaces, since SVG folds ordinary ones; short, to fit a phone.
BETTER_WORSE = "\u2190 better\u2003nats per token\u2003worse \u2192"


def forest(style: Style, rows: list[Row]) -> Chart | None:
    """Returns the chart of every difference with its interval: one row a variant, and in it one
    line a budget.
    """
    data = records.differences(rows)
    if not data:
        return None
    order = list(dict.fromkeys(row["budget"] for row in sorted(data, key=lambda r: r["tokens"])))
    offset = alt.YOffset(
        "budget:N", sort=order, scale=alt.Scale(paddingInner=0.35, paddingOuter=0.4)
    )
    y = style.rows.scale(alt.Scale(padding=0.1))
    base = style.base(data).encode(y=y, yOffset=offset, color=style.plain_colour)
    x = alt.X("low:Q", title=BETTER_WORSE, axis=alt.Axis(tickCount=6, grid=True))
    tooltip = [
        VARIANT,
        alt.Tooltip("budget:N", title="Budget"),
        alt.Tooltip("mean:Q", title="Difference", format="+.4f"),
        alt.Tooltip("interval:N", title="Interval"),
    ]
    final = alt.condition("datum.final", alt.value(3), alt.value(1.5))
    size = alt.condition("datum.final", alt.value(95), alt.value(30))
    layers = [
        zero(x=alt.datum(0)),
        base.mark_rule().encode(
            x=x, x2="high:Q", strokeWidth=final, opacity=style.opacity(), tooltip=tooltip
        ),
        base.mark_point(filled=True, opacity=1).encode(
            x="mean:Q", size=size, opacity=style.opacity(), tooltip=tooltip
        ),
    ]
    each = f", at {len(order)} budgets from the smallest (top) to the final one (bold)"
    caption = (
        f"{_intervals(data)}{each * (len(order) > 1)}. Left of the line is better than the control."
    )
    height = max(150, 46 * len({row["variant"] for row in data}))
    spec = style.finish(layers, height)
    return Chart("difference", "Difference from the control", caption, spec)


def trend(style: Style, rows: list[Row]) -> Chart | None:
    """Returns the chart of the difference against tokens, with a band for each budget's
    interval.
    """
    data = records.differences(rows)
    if len({row["tokens"] for row in data}) < 2:
        return None
    tokens = sorted({row["tokens"] for row in data})
    scaled = log_axis(0.95 * tokens[0], 1.05 * tokens[-1], values=tokens, format=".3~s")
    x = alt.X("tokens:Q", title="Training tokens, log scale", **scaled)
    spec = style.finish(_banded(style, data, x, alt.Tooltip("budget:N", title="At")), 300)
    caption = (
        "The decayed points against tokens. A line that is still falling at its end has not "
        f"settled. {BANDS}: {_intervals(data).lower()} at one budget."
    )
    return Chart("trend", "Difference from the control against tokens", caption, spec)


def position_difference(style: Style, rows: list[Row]) -> Chart | None:
    """Returns the chart of the difference by position in the window, with a band for each bin's
    interval.
    """
    data = [row for row in records.positions(rows) if row["low"] is not None]
    if not data:
        return None
    layers = _banded(style, data, position_axis(data), alt.Tooltip("bin:N", title="Position"))
    caption = (
        f"Where in the window a variant gains or loses. {BANDS}: {_intervals(data).lower()} "
        "at one position."
    )
    spec = style.finish(layers, 300)
    return Chart("position_difference", "Difference from the control by position", caption, spec)


def _intervals(data: list[Row]) -> str:
    if all(row["low"] == row["high"] for row in data):
        return "No intervals, since nothing was repeated"
    return "Intervals that hold for all variants together"


def _banded(style: Style, data: list[Row], x: alt.X, place: alt.Tooltip) -> list[alt.Chart]:
    """Returns lines with points, bands from ``low`` to ``high``, and a rule at zero."""
    base = style.base(data).encode(x=x, color=style.colour)
    y = alt.Y("mean:Q", title=DELTA, axis=alt.Axis(tickCount=6))
    tooltip = [
        VARIANT,
        place,
        alt.Tooltip("mean:Q", title="Difference", format="+.4f"),
        alt.Tooltip("interval:N", title="Interval"),
    ]
    return [
        zero(y=alt.datum(0)),
        base.mark_area(clip=True).encode(y=alt.Y("low:Q"), y2="high:Q", opacity=style.band()),
        base.mark_line(strokeWidth=1.75).encode(
            y=y, strokeDash=style.dash, opacity=style.opacity()
        ),
        base.mark_point(filled=True, size=28, opacity=1).encode(
            y=y, shape=style.shape, opacity=style.opacity(), tooltip=tooltip
        ),
    ]
