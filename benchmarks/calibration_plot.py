"""The picture of docs/statistics.md, from what calibrate.py wrote.

    python benchmarks/calibration_plot.py results/calibration.json docs/images/calibration

writes calibration.svg and calibration-dark.svg.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import altair as alt

from softmap.bench.plot import SUFFIX, svgs

Row = dict[str, Any]


def rows(found: Row) -> list[Row]:
    """One mark each: a rate with its interval, or the power that was promised."""
    made = []
    for row in found["rows"]:
        if row["family"] != "alone":
            continue
        one = {"variant": row["variant"], "runs": f"{row['runs_a_side']} runs"}
        for kind, key in (("false verdicts", "false_verdicts"), ("shift found", "found")):
            made.append(one | {"kind": kind, **{n: 100 * row[key][n] for n in row[key]}})
        made.append(one | {"kind": "shift found", "promised": 100 * row["predicted"]})
        made.append(one | {"kind": "false verdicts", "promised": 5.0})
    return made


def panel(data: list[Row], kind: str, title: str) -> alt.Chart:
    """Rates of one kind, a row for each variant and number of runs."""
    base = alt.Chart(alt.Data(values=[row for row in data if row["kind"] == kind]))
    x = alt.X("rate:Q", title=title, scale=alt.Scale(domainMin=0))
    y = alt.Y("runs:N", title=None, sort=None)
    colour = alt.Color("variant:N", legend=None)
    layers = [
        base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=colour),
        base.mark_tick(thickness=2, height=16).encode(x="promised:Q", y=y),
    ]
    chart: alt.Chart = alt.layer(*layers).properties(width=300, height=78)
    return chart.facet(row=alt.Row("variant:N", title=None, sort=None)).resolve_scale(x="shared")


def main(results: str, stem: str) -> None:
    found = json.loads(Path(results).read_text(encoding="utf-8"))
    data = rows(found)
    shift = found["rows"][0]["shift"]
    count = len({row["variant"] for row in data})
    spec = alt.hconcat(
        panel(data, "false verdicts", "false verdicts (%); tick: promised"),
        panel(data, "shift found", f"a shift of {shift:g} nats found (%); tick: predicted"),
    ).to_dict()
    for name, svg in svgs(spec, slice(1, 1 + count)):
        Path(f"{stem}{SUFFIX[name]}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {__doc__.splitlines()[2].strip()}")
    main(*sys.argv[1:])
