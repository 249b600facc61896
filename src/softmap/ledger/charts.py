"""A claim's small charts: its rows with their intervals, and the curve behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from softmap.claims._rules import CONTRADICTED, NO_VERDICT, NOT_RESOLVED, NOT_SEEN, REPRODUCED
from softmap.report.marks import Mark
from softmap.report.style import LINES, Chart

Spec = dict[str, Any]
Marks = Mapping[str, tuple[int, Mark]]
"""The index of an arm among the page's colours, and its mark, by name."""

QUIET = "var(--quiet)"
HUES = {
    REPRODUCED: "var(--better)", CONTRADICTED: "var(--worse)", NOT_SEEN: "var(--link)",
    NOT_RESOLVED: QUIET, NO_VERDICT: QUIET,
}  # fmt: skip


def charts(key: str, stage: Mapping[str, Any], marks: Marks) -> Iterator[Chart]:
    """Returns a chart of the rows of each study of a base, and of its curve if it has one."""
    for number, study in enumerate(stage["studies"]):
        rows = [row for part in study["parts"] for row in part["rows"] if row["mean"] is not None]
        title = f"{study['measure']['title']}, {stage['base']}"
        if rows:
            caption = "Bars: simultaneous 95 % intervals. Band: differences that count as none."
            yield Chart(f"{key}_{number}", title, caption, _rows(rows))
        for curve in [part["curve"] for part in study["parts"] if part["curve"]][:1]:
            yield Chart(
                f"{key}_{number}c", f"{curve['y']}, {stage['base']}", "", _curve(curve, marks)
            )


def _rows(rows: Sequence[Mapping[str, Any]]) -> Spec:
    data = [_record(row, rows) for row in rows]
    names = [one["name"] for one in data]
    zero, margin = rows[0]["zero"], rows[0]["margin"]
    scale = alt.Scale(domain=list(HUES), range=list(HUES.values()))
    tooltip = [alt.Tooltip(f"{end}:Q", format=".4f") for end in ("mean", "low", "high")]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelExpr=LINES)),
        color=alt.Color("verdict:N", legend=None, scale=scale),
        tooltip=["name:N", *tooltip, "verdict:N"],
    )
    at: dict[str, Any] = {"title": None, "scale": alt.Scale(zero=False)}
    layers = [
        _fixed(low=zero - margin, high=zero + margin).mark_rect(opacity=0.15, color=QUIET)
        .encode(x=alt.X("low:Q", **at), x2="high:Q"),
        _fixed(zero=zero).mark_rule(color=QUIET).encode(x=alt.X("zero:Q", **at)),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", **at), x2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("mean:Q", **at)),
    ]  # fmt: skip
    return _finish(layers, 34 * len(set(names)))


def _record(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns a row's values, named by the arm and, where rows differ in it, the reference."""
    name = f"{row['arm']} {row['what']}".strip()
    if len({one["against"] for one in rows}) > 1:
        name += f" / {row['against']}"
    ends = {end: row["mean"] if row[end] is None else row[end] for end in ("low", "high")}
    return {"name": name, "mean": row["mean"], **ends, "verdict": row["verdict"] or NOT_RESOLVED}


def _fixed(**values: float) -> Any:
    return alt.Chart(alt.Data(values=[values]))


def _curve(curve: Mapping[str, Any], marks: Marks) -> Spec:
    """Returns a chart of the runs' means by a condition, with a line for each arm."""
    labels = list(dict.fromkeys(point["variant"] for point in curve["points"]))
    own = [marks[label] for label in labels]
    hues = alt.Scale(domain=labels, range=[f"var(--v{place})" for place, _ in own])
    shapes = alt.Scale(domain=labels, range=[mark.shape for _, mark in own])
    dashes = alt.Scale(domain=labels, range=[mark.dash for _, mark in own])
    scale = alt.Scale(type="log", nice=False) if curve["log"] else alt.Scale(zero=False)
    base = alt.Chart(alt.Data(values=curve["points"])).encode(
        x=alt.X("x:Q", title=curve["x"], scale=scale, axis=alt.Axis(format="~s")),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("variant:N", title=None, scale=hues),
        tooltip=["variant:N", "x:Q", alt.Tooltip("value:Q", format=".4f")],
    )
    points = base.mark_point(filled=True, size=45, opacity=1)
    dash = alt.StrokeDash("variant:N", title=None, scale=dashes)
    shape = alt.Shape("variant:N", title=None, scale=shapes)
    lines = base.mark_line(strokeWidth=1.75).encode(strokeDash=dash)
    return _finish([lines, points.encode(shape=shape)], 200)


def _finish(layers: list[Any], height: int) -> Spec:
    chart = alt.layer(*layers).properties(width="container", height=height)
    spec: Spec = chart.to_dict(validate=False)
    return spec
