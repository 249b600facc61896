"""The page: template, style and script of this package, filled in and made self-contained."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import altair
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from softmap.report import attention, cells, peaks, question_table, theme, words
from softmap.report.compare import first_maps
from softmap.report.lead import form, lead
from softmap.report.load import Run
from softmap.report.marks import marks
from softmap.report.style import Chart

HERE = Path(__file__).parent
SIMPLE = HERE / "simple.js"  #: the script of pages that are charts, chips and a theme
VEGA_LITE = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])

GLOBALS = "window.vegaEmbed = vegaEmbed;"


def render(
    run: Run,
    report: dict[str, Any],
    charts: list[Chart],
    asked: dict[str, list[Chart]],
    table: str,
) -> str:
    """Returns the whole page as one string of HTML that loads nothing from the network.

    Args:
        asked: the charts of each suite in ``report["questions"]``.

    Everything from the run is escaped by the template engine; JSON in script elements has
    ``<``, ``>`` and ``&`` written as unicode escapes.
    """
    labels = run.labels
    rows = report["variants"]
    return (
        environment()
        .get_template("page.html")
        .render(
            report=report,
            rows=rows,
            labels=labels,
            marks=marks(run.plain_labels),
            finished=[row["variant"] for row in rows],
            results=cells.results(rows),
            costs=cells.COSTS,
            table=cells.table(rows),
            charts=charts,
            control=run.control,
            asked=asked,
            answers=question_table,
            tuned=peaks.table(report["peaks"]),
            repeat=_repeat(report),
            lead=lead(report),
            forms=[(row["variant"], form(row)) for row in rows],
            maps=[row["variant"] for row in rows if row["maps"]],
            captions=_captions(rows),
            payload=_payload(run, report, [*charts, *chain.from_iterable(asked.values())], table),
            **assets(HERE / "page.js"),
            words=words,
        )
    )


@cache
def bundle() -> str:
    """Returns Vega, Vega-Lite and vega-embed in one script, which a page contains once."""
    script = str(vl_convert.javascript_bundle(snippet=GLOBALS, vl_version=VEGA_LITE))
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def assets(script: Path) -> dict[str, Any]:
    """Returns what ``parts.html`` puts into any page: the style sheet, Vega, the page's own script,
    and the hues that marks index.
    """
    return {
        "css": Markup((HERE / "page.css").read_text(encoding="utf-8")),
        "bundle": Markup(bundle()),
        "script": Markup(script.read_text(encoding="utf-8")),
        "hues": theme.HUES,
    }


def simple(labels: list[str], charts: Iterable[Chart]) -> dict[str, Any]:
    """Returns payload, script and styles of a page with charts, a legend of chips and a theme."""
    payload = {
        "labels": labels,
        "config": theme.config(theme.of_page(len(labels)), theme.INKS["page"]),
        "charts": {chart.key: chart.spec for chart in charts},
    }
    return {"payload": payload, **assets(SIMPLE)}


def environment(*folders: Path) -> Environment:
    """Returns the environment of the templates in ``folders``, then in this one."""
    made = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["safe_url"] = safe_url
    made.filters["name"] = breakable
    made.filters["sentence"] = sentence
    return made


def breakable(label: str) -> Markup:
    """Returns the escaped label, which may wrap after a slash or a comma and before a bracket."""
    return Markup("<wbr>").join(re.split(r"(?<=[/,])(?=[^/,])|(?<=[^(])(?=\()", label))


def sentence(text: str) -> Markup:
    """Returns the escaped text, in which a name wraps only if it is longer than a line."""
    whole = Markup('<span class="whole">{}</span>')
    return Markup(" ").join(
        whole.format(breakable(word)) if re.search(r"\w[-/(,+]+\w", word) else escape(word)
        for word in text.split(" ")
    )


def safe_url(url: Any) -> str | None:
    """Returns the address if a browser may follow it (http or https), else None."""
    return str(url) if url and urlparse(str(url)).scheme in ("http", "https") else None


def _payload(run: Run, report: dict[str, Any], charts: list[Chart], table: str) -> dict[str, Any]:
    """Returns what the script needs, as one JSON object."""
    colours = theme.of_page(len(run.labels))
    passage = run.info.get("passage") or {}
    return {
        "labels": run.labels,
        # The chips are the legend of every chart.
        "config": theme.config(colours, theme.INKS["page"]) | {"legend": {"disable": True}},
        "charts": {chart.key: chart.spec for chart in charts},
        "tokens": [str(token) for token in passage.get("tokens", [])],
        "maps": _maps(run),
        "report": report,
        "csv": table,
    }


def _maps(run: Run) -> dict[str, Any]:
    packed = {}
    for label in run.labels:
        maps = first_maps(list(run.trials.get(label, {}).values()))
        if maps is not None:
            packed[label] = attention.pack(maps)
    return packed


def _captions(rows: list[dict[str, Any]]) -> dict[str, str]:
    control = next((row["maps"] for row in rows if row["is_control"]), None)
    return {
        row["variant"]: attention.describe(row["maps"], None if row["is_control"] else control)
        for row in rows
        if row["maps"]
    }


def _repeat(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns name and value of everything that is needed to repeat the run, without what is not
    known.
    """
    items = [("Created", report["created"])]
    items += [("softmap", report["softmap_version"]), ("Commit", report["commit"])]
    items += [("Run", command) for command in report["runs"] or []]
    items.append(("Seeds", _seeds(report)))
    for title in ("Data", "Model", "Training", "Device", "Versions"):
        items.append((title, _plain(report[title.lower()] or {})))
    return [(name, str(value)) for name, value in items if value]


def _seeds(report: dict[str, Any]) -> str:
    """Returns the seeds that all variants have, and those of each variant that has others."""
    every = report["seeds"]
    others = {v: s for v, s in (report["seeds_by_variant"] or {}).items() if s != every}
    parts = [", ".join(map(str, every))]
    parts += [f"{label}: {', '.join(map(str, seeds))}" for label, seeds in others.items()]
    return "; ".join(parts)


def _plain(value: Any) -> str:
    """Returns a setting as text: ``name value`` pairs, lists in brackets, nothing for None."""
    if isinstance(value, dict):
        pairs = ((name, _plain(inner)) for name, inner in value.items() if inner is not None)
        return ", ".join(f"{name} {text}" for name, text in pairs if text)
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
