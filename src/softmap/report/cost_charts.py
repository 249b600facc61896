"""What a variant costs: loss against time, speed, peak memory."""

from __future__ import annotations

from typing import Any, Literal

import altair as alt

from softmap.report import records
from softmap.report.style import LOSS, Chart, Style
from softmap.report.words import time_unit

Row = dict[str, Any]


def pareto(style: Style, rows: list[Row]) -> Chart:
    """Final loss against training time, with the line that nobody beats on both."""
    data = records.costs(rows)
    unit, size = time_unit(max(row["seconds"] for row in data))
    middle = (min(row["seconds"] for row in data) + max(row["seconds"] for row in data)) / 2
    data = [
        row | {"time": float(f"{row['seconds'] / size:.4g}"), "left": row["seconds"] > middle}
        for row in data
    ]
    x = alt.X(
        "time:Q",
        title=f"Training time ({unit})",
        scale=alt.Scale(zero=False, padding=24),
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y("loss:Q", title=LOSS, scale=alt.Scale(zero=False, padding=24))
    base = style.base(data).encode(x=x, y=y)
    tooltip = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("time:Q", title=f"Training time ({unit})"),
        alt.Tooltip("loss:Q", title=LOSS, format=".4f"),
    ]
    layers = [
        _frontier(base),
        base.mark_point(filled=True, size=110, opacity=1).encode(
            color=style.colour,
            shape=style.shape,
            opacity=style.opacity(),
            tooltip=tooltip,
        ),
        *(_labels(style, base, left) for left in (False, True)),
    ]
    caption = (
        "Lower and further left is better. The dashed line joins the variants that no other beats "
        "on both loss and time; it follows the point estimates, not their intervals."
    )
    return Chart("pareto", "Final loss against training time", caption, style.finish(layers, 320))


def _frontier(base: alt.Chart) -> alt.Chart:
    """A step line through the records at the running minimum of the loss in order of time."""
    return (
        base.transform_window(
            best="min(loss)", sort=[alt.SortField("time")], frame=[None, 0], ignorePeers=True
        )
        .transform_filter("datum.loss <= datum.best")
        .mark_line(interpolate="step-after", strokeDash=[4, 4], strokeWidth=1, color="#8a9099")
    )


def _labels(style: Style, base: alt.Chart, left: bool) -> alt.Chart:
    align: Literal["left", "right"]
    align, shift = ("right", -10) if left else ("left", 10)
    text = base.transform_filter(f"datum.left === {str(left).lower()}").mark_text(
        align=align, dx=shift, baseline="middle", fontSize=12, limit=150
    )
    return text.encode(text="variant:N", opacity=style.opacity())


def speed(style: Style, rows: list[Row]) -> Chart:
    """Median training speed, with the 10th to 90th percentile of the steps."""
    base = style.base(records.costs(rows)).encode(y=style.rows)
    tooltip = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("speed:Q", title="Tokens per second, median", format=",.0f"),
        alt.Tooltip("slow:Q", title="10th percentile", format=",.0f"),
        alt.Tooltip("fast:Q", title="90th percentile", format=",.0f"),
    ]
    spread = base.mark_rule(strokeWidth=1.5).encode(
        x="slow:Q", x2="fast:Q", opacity=style.opacity()
    )
    bars = _bars(style, base, "speed", "Training speed (tokens per second)", tooltip)
    caption = (
        "Median over the steps, with the 10th to 90th percentile as a line, on this run's device. "
        "In brackets: times the control's speed."
    )
    return Chart("speed", "Training speed", caption, style.finish([*bars, spread], _height(rows)))


def memory(style: Style, rows: list[Row]) -> Chart:
    """Peak memory of training."""
    base = style.base(records.costs(rows)).encode(y=style.rows)
    tooltip = [
        alt.Tooltip("variant:N"),
        alt.Tooltip("megabytes:Q", title="Peak memory (MB)", format=",.0f"),
    ]
    layers = _bars(style, base, "megabytes", "Peak memory of training (MB)", tooltip)
    caption = "The highest memory in use while training. In brackets: times the control's."
    return Chart("memory", "Peak memory", caption, style.finish(layers, _height(rows)))


def _bars(
    style: Style, base: alt.Chart, field: str, title: str, tooltip: list[alt.Tooltip]
) -> list[alt.Chart]:
    x = alt.X(f"{field}:Q", title=title, axis=alt.Axis(format="~s", tickCount=5, grid=True))
    label = "speed_text" if field == "speed" else "memory_text"
    bars = base.mark_bar(height={"band": 0.66}).encode(
        x=x, color=style.plain_colour, opacity=style.opacity(0.85), tooltip=tooltip
    )
    # Inside the bar's foot, where a label always has room and never leaves the chart.
    text = base.mark_text(align="left", dx=6, fontSize=12).encode(
        x=alt.datum(0), text=f"{label}:N", opacity=style.opacity()
    )
    return [bars, text]


def _height(rows: list[Row]) -> int:
    return 60 + 30 * len(rows)
