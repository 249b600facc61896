"""One self-contained page of all answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softmap.evals.catalogue import suite as suite_of
from softmap.files import write
from softmap.lab.asking import table
from softmap.lab.asking.charts import charts
from softmap.report import theme
from softmap.report.marks import marks
from softmap.report.page import SIMPLE, assets, environment

HERE = Path(__file__).parent


def write_page(path: Path, found: Mapping[str, Any]) -> Path:
    """The page of what :func:`~softmap.lab.asking.run.ask` gave, written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, page(found))
    return path


def page(found: Mapping[str, Any]) -> str:
    """The same as one string of HTML that asks nothing of the network."""
    labels = found["labels"]
    drawn = {
        name: charts(suite_of(name), name, suite["cells"], labels)
        for name, suite in found["suites"].items()
    }
    every = [chart for some in drawn.values() for chart in some]
    payload = {
        "labels": labels,
        "config": theme.config(theme.of_page(len(labels)), theme.INKS["page"]),
        "charts": {chart.key: chart.spec for chart in every},
    }
    return (
        environment(HERE)
        .get_template("page.html")
        .render(
            found=found,
            labels=labels,
            marks=marks(labels),
            charts=drawn,
            titles={
                name: {one["name"]: one["title"] for one in suite["measures"]}
                for name, suite in found["suites"].items()
            },
            classes=classes,
            table=table,
            payload=payload,
            **assets(SIMPLE),
        )
    )


def classes(suite: Mapping[str, Any], cell: Mapping[str, Any], label: str) -> str:
    """How a difference is marked: better and worse by the measure's direction, or equal."""
    difference = cell["differences"].get(label)
    if difference is None:
        return ""
    answer = difference["answer"]
    good = next(one["better"] for one in suite["measures"] if one["name"] == cell["measure"])
    if answer in ("lower", "higher"):
        return "" if not good else "better" if answer == good else "worse"
    return "equal" if answer == "equal" else ""
