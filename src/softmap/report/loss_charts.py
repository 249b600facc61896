"""Loss against what it cost: tokens, time, computation; and by position in the window."""

from __future__ import annotations

from typing import Any

import altair as alt

from softmap.report import records
from softmap.report.load import Run
from softmap.report.style import LOSS, Chart, Style
from softmap.report.words import time_unit

Row = dict[str, Any]

AXES = {
    "tokens": ("Loss against tokens", "Training tokens", "equal data"),
    "seconds": ("Loss against training time", "Training time", "equal time on this device"),
    "flops": ("Loss against computation", "Training FLOPs", "equal arithmetic"),
}


def loss(style: Style, run: Run, rows: list[Row], key: str) -> Chart:
    title, axis, fair = AXES[key]
    points, curve = records.budgets(rows), records.curves(run, rows)
    field = alt.X(f"{key}:Q", title=axis, axis=alt.Axis(format="~s", tickCount=5))
    if key == "seconds":
        unit, size = time_unit(max(point["seconds"] for point in points))
        points, curve = _in_unit(points, size), _in_unit(curve, size)
        field = alt.X("seconds:Q", title=f"{axis} ({unit})", axis=alt.Axis(tickCount=5))
    scale = alt.Scale(domain=_loss_range(points, curve), zero=False, nice=False)
    y = alt.Y("loss:Q", title="Loss (nats per token)", scale=scale)
    base = style.base(points).encode(x=field, color=style.colour)
    line = style.base(curve).mark_line(strokeWidth=1, clip=True, interpolate="monotone")
    layers = [
        line.encode(
            x=field, y=y, color=style.colour, strokeDash=style.dash, opacity=style.opacity(0.5)
        ),
        base.mark_line(strokeWidth=2.25).encode(
            y=y, strokeDash=style.dash, opacity=style.opacity()
        ),
        base.mark_rule(strokeWidth=1.5).encode(
            y=alt.Y("low:Q", scale=scale), y2="high:Q", opacity=style.opacity()
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            y=y, shape=style.shape, opacity=style.opacity(), tooltip=_loss_tooltip(key, axis)
        ),
    ]
    caption = (
        f"A comparison at {fair}. Thin lines: training loss. Points: held-out loss after each "
        "decay, with one standard error each way over the held-out text. That text is the same "
        "for all, so judge differences by the paired intervals below, not by overlapping bars."
    )
    return Chart(f"loss_{key}", title, caption, style.finish(layers, 320))


def _loss_tooltip(key: str, axis: str) -> list[alt.Tooltip]:
    number = ".4~s" if key != "seconds" else ".3~r"
    return [
        alt.Tooltip("variant:N"),
        alt.Tooltip(f"{key}:Q", title=axis, format=number),
        alt.Tooltip("loss:Q", title=LOSS, format=".4f"),
        alt.Tooltip("seeds:N", title="By seed"),
    ]


def _loss_range(points: list[Row], curve: list[Row]) -> list[float]:
    """From just below the best value to just above the first decayed points: where it matters."""
    lowest = min(row["loss"] for row in points + curve)
    highest = max(row["high"] for row in points)
    room = 0.08 * max(highest - lowest, 0.05)
    return [
        round(min(lowest, min(p["low"] for p in points)) - room, 3),
        round(highest + 3 * room, 3),
    ]


def _in_unit(rows: list[Row], size: float) -> list[Row]:
    return [row | {"seconds": float(f"{row['seconds'] / size:.4g}")} for row in rows]


def position(style: Style, rows: list[Row]) -> Chart:
    base = style.base(records.positions(rows)).encode(
        x=position_axis(),
        y=alt.Y("loss:Q", title=LOSS, scale=alt.Scale(zero=False)),
        color=style.colour,
        opacity=style.opacity(),
        tooltip=[
            alt.Tooltip("variant:N"),
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


def position_axis() -> alt.X:
    """Positions on a log scale: the early ones differ most."""
    scale = alt.Scale(type="log", base=2, nice=False)
    return alt.X(
        "position:Q",
        title="Position in the window (tokens, log scale)",
        scale=scale,
        axis=alt.Axis(format="d", tickCount=8),
    )
