"""The page and the JSON of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmap.files import write
from softmap.report.marks import marks
from softmap.report.page import environment, simple
from softmap.report.scaling.charts import TITLES, charts
from softmap.report.scaling.equal import RATIOS
from softmap.report.scaling.summary import summary
from softmap.report.scaling.sweep import read
from softmap.report.scaling.table import LAW, at, span

HERE = Path(__file__).parent
WRITTEN = ("scaling.html", "scaling.json")


def build(
    directories: Sequence[Path], out: Path, command: str, version: str
) -> tuple[Path, dict[str, Any]]:
    """Write ``scaling.json`` and ``scaling.html`` into ``out``; returns the page's path and its
    numbers.

    Raises ``SoftmapError`` as [`softmap.report.scaling.sweep.read`][] does.
    """
    found = summary(read(directories))
    page = render(found, command, version)
    text = json.dumps({**found, "command": command, "softmap": version}, indent=1)
    out.mkdir(parents=True, exist_ok=True)
    write(out / WRITTEN[1], text + "\n")
    write(out / WRITTEN[0], page)
    return out / WRITTEN[0], found


def render(found: dict[str, Any], command: str, version: str) -> str:
    """Returns the page as one string of HTML that loads nothing from the network."""
    labels, drawn = list(found["variants"]), charts(found)
    return (
        environment(HERE)
        .get_template("page.html")
        .render(
            found=found, labels=labels, marks=marks(labels), charts=drawn,
            law=LAW, kinds=RATIOS, titles=TITLES, at=at, span=span, command=command,
            version=version, **simple(labels, drawn),
        )
    )  # fmt: skip
