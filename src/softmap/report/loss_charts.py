"""Loss against what it cost: tokens, time, computation; and by position in the window."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any

import altair as alt

from softmap.report import records
from softmap.report.load import Run
from softmap.report.style import LOSS, VARIANT, Chart, Style, log_axis
from softmap.report.words import time_unit

Row = dict[str, Any]

AXES = {
    "tokens": ("Loss against tokens", "Training tokens", "equal data"),
    "seconds": ("Loss against training time", "Training time", "equal time on this device"),
    "flops": ("Loss against computation", "Training FLOPs", "equal arithmetic"),
}
FIRST = 0.8  # times the first decayed point's cost: where the axes start
HELD_OUT = (
    "Points: held-out loss after each decay, the mean of the runs with one standard error each way "
    "(the runs' spread, where any was repeated). Judge differences by their own intervals, not by "
    "overlapping bars."
)


@dataclass(frozen=True)
class Cost:
    """The axis that a loss is drawn against: the field, its name, the scale."""

    key: str
    title: str
    x: alt.X


def loss(style: Style, run: Run, rows: list[Row], key: str) -> Chart:
    """Returns the chart of training curves and decayed points against ``tokens``, ``seconds`` or
    ``flops``.
    """
    title, axis, fair = AXES[key]
    points = records.budgets(rows)
    start = FIRST * min(point["tokens"] for point in points)
    curve = [row for row in records.curves(run, rows) if row["tokens"] >= start]
    if key == "seconds":
        unit, size = time_unit(max(point["seconds"] for point in points))
        points, curve = _in_unit(points, size), _in_unit(curve, size)
        axis = f"{axis} ({unit})"
    cost = Cost(key, axis, _cost_axis(points, key, axis))
    y = alt.Scale(domain=_loss_range(points, curve), zero=False, nice=False)
    layers = [*_training(style, curve, cost, y), *_decayed(style, points, cost, y)]
    thin = "Thin lines: training loss. " if curve else ""
    short = f"A comparison at {fair}. {thin}"
    rest = HELD_OUT if key == "tokens" else "Points: held-out loss, one standard error each way."
    return Chart(f"loss_{key}", title, short + rest, style.finish(layers, 320))


def _training(style: Style, curve: list[Row], cost: Cost, y: alt.Scale) -> list[alt.Chart]:
    base = style.base(curve).encode(
        x=cost.x,
        y=alt.Y("loss:Q", title="Loss (nats per token)", scale=y),
        color=style.colour,
    )
    tooltip = _tooltip(cost, "Training loss")
    # A line shows the tooltip of its first point only, so invisible points have the tooltips.
    return [
        base.mark_line(strokeWidth=1).encode(strokeDash=style.dash, opacity=style.opacity(0.4)),
        base.mark_circle(size=40, opacity=0).encode(tooltip=tooltip),
    ]


def _decayed(style: Style, points: list[Row], cost: Cost, y: alt.Scale) -> list[alt.Chart]:
    base = style.base(points).encode(x=cost.x, color=style.colour, opacity=style.opacity())
    middle = alt.Y("loss:Q", title="Loss (nats per token)", scale=y)
    tooltip = [*_tooltip(cost, LOSS), alt.Tooltip("runs:N", title="Each run")]
    return [
        base.mark_line(strokeWidth=1.75).encode(y=middle, strokeDash=style.dash),
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=y), y2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=middle, shape=style.shape, tooltip=tooltip
        ),
    ]


def _tooltip(cost: Cost, loss_title: str) -> list[alt.Tooltip]:
    number = ".3~r" if cost.key == "seconds" else ".4~s"
    return [
        VARIANT,
        alt.Tooltip(f"{cost.key}:Q", title=cost.title, format=number),
        alt.Tooltip("loss:Q", title=loss_title, format=".4f"),
    ]


def _cost_axis(points: list[Row], key: str, title: str) -> alt.X:
    """Returns a logarithmic axis, since budgets are multiples of each other; token budgets are its
    ticks.
    """
    values = sorted({point[key] for point in points})
    number = "~r" if key == "seconds" else ".3~s"
    marked = {"values": values} if key == "tokens" else {}
    scaled = log_axis(0.95 * FIRST * values[0], 1.06 * values[-1], format=number, **marked)
    return alt.X(f"{key}:Q", title=f"{title}, log scale", **scaled)


def _loss_range(points: list[Row], curve: list[Row]) -> list[float]:
    """Returns limits from just below the best value to just above the worst of what is drawn."""
    lowest = min([row["loss"] for row in curve] + [point["low"] for point in points])
    highest = max([row["loss"] for row in curve] + [point["high"] for point in points])
    room = 0.04 * max(highest - lowest, 0.05)
    return [round(lowest - room, 3), round(highest + room, 3)]


def _in_unit(rows: list[Row], size: float) -> list[Row]:
    return [row | {"seconds": float(f"{row['seconds'] / size:.4g}")} for row in rows]


def position(style: Style, rows: list[Row]) -> Chart:
    """Returns the chart of final held-out loss by position in the window."""
    data = records.positions(rows)
    base = style.base(data).encode(
        x=position_axis(data),
        y=alt.Y("loss:Q", title=LOSS, scale=alt.Scale(zero=False)),
        color=style.colour,
        opacity=style.opacity(),
        tooltip=[
            VARIANT,
            alt.Tooltip("bin:N", title="Position"),
            alt.Tooltip("loss:Q", title=LOSS, format=".4f"),
        ],
    )
    layers = [
        base.mark_line(strokeWidth=1.75).encode(strokeDash=style.dash),
        base.mark_point(filled=True, size=28, opacity=1).encode(shape=style.shape),
    ]
    caption = "Held-out loss by position in the window, in bins a third of an octave wide."
    return Chart("position", "Loss by position", caption, style.finish(layers, 300))


def position_axis(rows: list[Row]) -> alt.X:
    """Returns a logarithmic axis of positions, since the early ones differ most."""
    last = max(row["position"] for row in rows)
    powers = [2**n for n in range(int(log2(last)) + 1)]
    return alt.X(
        "position:Q",
        title="Position in the window (tokens, log scale)",
        **log_axis(1, last, values=powers, format="d"),
    )
