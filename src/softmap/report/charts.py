"""All charts of a run, in the order of the page."""

from __future__ import annotations

from typing import Any

from softmap.report import cost_charts, difference_charts, loss_charts, run_charts
from softmap.report.load import Run
from softmap.report.marks import marks
from softmap.report.style import Chart, Style

Row = dict[str, Any]


def charts(run: Run, rows: list[Row]) -> list[Chart]:
    """Returns every chart that the run has data for; without a control there are no differences."""
    style = Style(run.labels, marks(run.plain_labels))
    made = [
        loss_charts.loss(style, run, rows, "tokens"),
        loss_charts.loss(style, run, rows, "seconds"),
        loss_charts.loss(style, run, rows, "flops"),
        difference_charts.forest(style, rows),
        run_charts.every_run(style, rows),
        difference_charts.trend(style, rows),
        cost_charts.pareto(style, rows),
        loss_charts.position(style, rows),
        difference_charts.position_difference(style, rows),
        cost_charts.speed(style, rows),
        cost_charts.memory(style, rows),
    ]
    return [chart for chart in made if chart is not None]
