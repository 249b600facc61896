"""Every run as a dot: what the means and intervals are made of."""

from __future__ import annotations

from typing import Any

import altair as alt

from softmap.report import records
from softmap.report.style import LOSS, VARIANT, Chart, Style, around

Row = dict[str, Any]
SEED = alt.Tooltip("seed:N", title="Seed")


def every_run(style: Style, rows: list[Row]) -> Chart:
    """Returns the chart of the final losses of all runs, one line for each variant, with the mean
    of each.
    """
    data = records.runs(rows)
    axis = alt.Axis(tickCount=6, grid=True)
    x = alt.X("loss:Q", title=LOSS, scale=around(data, "loss"), axis=axis)
    runs = style.base(data).encode(y=style.rows, x=x, color=style.plain_colour)
    means = style.base(records.means(rows)).encode(y=style.rows, x=x)
    tooltip = [
        VARIANT,
        alt.Tooltip("loss:Q", title="Mean", format=".4f"),
        alt.Tooltip("runs:N", title="Runs"),
    ]
    layers = [
        means.mark_tick(thickness=2, size=22).encode(opacity=style.opacity(), tooltip=tooltip),
        runs.mark_point(size=64, filled=True).encode(
            opacity=style.opacity(0.75),
            shape=style.plain_shape,
            tooltip=[VARIANT, SEED, alt.Tooltip("loss:Q", title=LOSS, format=".4f")],
        ),
    ]
    caption = (
        "The final held-out loss of each run; the bars are the means. What separates two variants "
        "should be seen against how far apart the runs of one lie."
    )
    height = 60 + 32 * len(rows)
    return Chart("runs", "Every run", caption, style.finish(layers, height))
