"""One self-contained page of all answers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from softmap.files import write
from softmap.report import question_table
from softmap.report.marks import marks
from softmap.report.page import environment, simple
from softmap.report.question_charts import charts
from softmap.report.style import Style

HERE = Path(__file__).parent


def write_page(path: Path, found: Mapping[str, Any]) -> Path:
    """Write the page of what [`ask`][softmap.lab.asking.run.ask] returned, completely or not at
    all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, page(found))
    return path


def page(found: Mapping[str, Any]) -> str:
    """Returns the page as one string of HTML that needs no network."""
    labels = found["labels"]
    drawn = charts(Style(labels, marks(labels)), found["suites"])
    return (
        environment(HERE)
        .get_template("page.html")
        .render(
            found=found,
            labels=labels,
            control=found["control"],
            marks=marks(labels),
            drawn=drawn,
            answers=question_table,
            **simple(labels, chain.from_iterable(drawn.values())),
        )
    )
