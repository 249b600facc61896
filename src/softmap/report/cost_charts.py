"""What a variant costs: loss against time, speed, peak memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from softmap.report import records
from softmap.report.style import LOSS, VARIANT, Chart, Style, around
from softmap.report.words import time_unit

Row = dict[str, Any]


def pareto(style: Style, rows: list[Row]) -> Chart | None:
    """Returns the chart of final loss against training time, with the Pareto front."""
    if len(rows) < 2:
        return None
    data = _placed(records.costs(rows))
    unit, size = time_unit(max(row["seconds"] for row in data))
    data = [row | {"time": float(f"{row['seconds'] / size:.4g}")} for row in data]
    time = f"Training time ({unit})"
    base = style.base(data).encode(
        x=alt.X("time:Q", title=time, scale=around(data, "time"), axis=alt.Axis(tickCount=6)),
        y=alt.Y("loss:Q", title=LOSS, scale=around(data, "loss"), axis=alt.Axis(tickCount=6)),
    )
    tooltip = [
        VARIANT,
        alt.Tooltip("time:Q", title=time),
        alt.Tooltip("loss:Q", title=LOSS, format=".4f"),
    ]
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        color=style.plain_colour, shape=style.plain_shape, opacity=style.opacity(), tooltip=tooltip
    )
    labels = [_labels(style, base, left) for left in (False, True)]
    caption = (
        "Lower and further left is better. The dashed line joins the variants that no other beats "
        "on both loss and time; it follows the point estimates, not their intervals."
    )
    spec = style.finish([_frontier(base), points, *labels], 340)
    return Chart("pareto", "Final loss against training time", caption, spec)


def _placed(data: list[Row]) -> list[Row]:
    """Returns the points with positions of their labels: on the inner side, and moved down where
    they would overlap.
    """
    seconds = [row["seconds"] for row in data]
    middle = (min(seconds) + max(seconds)) / 2
    losses = [row["loss"] for row in data]
    line = (max(losses) - min(losses)) / 19  # one line of text, at 340 pixels less the room around
    placed: list[Row] = []
    for row in sorted(data, key=lambda row: -float(row["loss"])):
        left, label = row["seconds"] > middle, float(row["loss"])
        above = [other["label"] for other in placed if other["left"] == left]
        placed.append(row | {"left": left, "label": min([label, *(a - line for a in above)])})
    return placed


def _frontier(base: alt.Chart) -> alt.Chart:
    """Returns a step line through the points that have the lowest loss up to their time."""
    running = base.transform_window(
        best="min(loss)", sort=[alt.SortField("time")], frame=[None, 0], ignorePeers=True
    )
    return running.transform_filter("datum.loss <= datum.best").mark_line(
        interpolate="step-after", strokeDash=[4, 4], strokeWidth=1, color="#8a9099"
    )


def _labels(style: Style, base: alt.Chart, left: bool) -> alt.Chart:
    align: Literal["left", "right"]
    align, shift = ("right", -10) if left else ("left", 10)
    text = base.transform_filter(f"datum.left === {str(left).lower()}").mark_text(
        align=align, dx=shift, dy=-7, baseline="middle", fontSize=12, limit=150
    )
    return text.encode(y=alt.Y("label:Q"), text="variant:N", opacity=style.opacity())


def speed(style: Style, rows: list[Row]) -> Chart:
    """Returns the chart of median training speed, with the 10th to 90th percentile of the rounds
    (or steps).
    """
    tooltip = [
        VARIANT,
        alt.Tooltip("speed:Q", title="Tokens per second, median", format=",.0f"),
        alt.Tooltip("slow:Q", title="10th percentile", format=",.0f"),
        alt.Tooltip("fast:Q", title="90th percentile", format=",.0f"),
    ]
    bars = Bars("speed", "fast", "speed_text", "Training speed (tokens per second)")
    base, layers = _bars(style, rows, bars, tooltip)
    spread = base.mark_rule(strokeWidth=1.5).encode(
        x="slow:Q", x2="fast:Q", opacity=style.opacity()
    )
    apart = all(row["speed_rounds"] for row in rows)
    caption = (
        f"Median over the {'rounds of a measurement apart from training' if apart else 'steps'}, "
        "with the 10th to 90th percentile as a line, on this run's device. In brackets: times the "
        "control's speed."
    )
    spec = style.finish([*layers, spread], _height(rows))
    return Chart("speed", "Training speed", caption, spec)


def memory(style: Style, rows: list[Row]) -> Chart:
    """Returns the chart of the peak memory of training."""
    tooltip = [VARIANT, alt.Tooltip("memory_text:N", title="Peak memory")]
    bars = Bars("bytes", "bytes", "memory_text", "Peak memory of training (bytes)")
    _, layers = _bars(style, rows, bars, tooltip)
    caption = "The highest memory in use while training. In brackets: times the control's."
    return Chart("memory", "Peak memory", caption, style.finish(layers, _height(rows)))


@dataclass(frozen=True)
class Bars:
    """Fields of a bar chart: the bar's length, where its label starts, the label, the axis."""

    length: str
    end: str
    label: str
    title: str


def _bars(
    style: Style, rows: list[Row], bars: Bars, tooltip: list[alt.Tooltip]
) -> tuple[alt.Chart, list[alt.Chart]]:
    data = records.costs(rows)
    base = style.base(data).encode(y=style.rows)
    # Room to the right for the longest bar's label, on a phone too.
    scale = alt.Scale(domain=[0, 1.7 * max(row[bars.end] for row in data)], nice=False)
    axis = alt.Axis(
        format="~s", tickCount=5, grid=True, labelExpr="datum.value === 0 ? '0' : datum.label"
    )
    drawn = base.mark_bar(height={"band": 0.62}).encode(
        x=alt.X(f"{bars.length}:Q", title=bars.title, scale=scale, axis=axis),
        color=style.plain_colour,
        opacity=style.opacity(),
        tooltip=tooltip,
    )
    text = base.mark_text(align="left", dx=7, fontSize=12).encode(
        x=f"{bars.end}:Q", text=f"{bars.label}:N", opacity=style.opacity()
    )
    return base, [drawn, text]


def _height(rows: list[Row]) -> int:
    return 60 + 30 * len(rows)
