"""The page: template, style and script of this package, filled in and made self-contained."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import altair
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from softmap.report import attention, cells, peaks, theme, words
from softmap.report.compare import first_maps
from softmap.report.load import Run
from softmap.report.style import Chart

HERE = Path(__file__).parent
VEGA_LITE = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])

GLOBALS = "window.vegaEmbed = vegaEmbed;"


def render(run: Run, report: dict[str, Any], charts: list[Chart], table: str) -> str:
    """The whole page as one string of HTML that asks nothing of the network.

    Everything from the run is escaped by the template engine; JSON in script elements has
    ``<``, ``>`` and ``&`` written as unicode escapes.
    """
    labels = run.labels
    rows = report["variants"]
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            rows=rows,
            labels=labels,
            marks=theme.marks(len(labels)),
            finished=[row["variant"] for row in rows],
            columns=cells.COLUMNS,
            table=cells.table(rows),
            charts=charts,
            tuned=peaks.table(report["peaks"]),
            repeat=_repeat(report),
            lead=_lead(report),
            maps=[row["variant"] for row in rows if row["maps"]],
            captions=_captions(rows),
            payload=_payload(run, report, charts, table),
            css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
            bundle=Markup(_bundle()),
            words=words,
        )
    )


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed in one script, once for the whole page."""
    script = str(vl_convert.javascript_bundle(snippet=GLOBALS, vl_version=VEGA_LITE))
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_url"] = safe_url
    environment.filters["name"] = breakable
    return environment


def breakable(label: str) -> Markup:
    """The escaped label, free to wrap after its punctuation."""
    parts = re.split(r"(?<=[(,+=_])(?=[^(,+=_])", label)
    return Markup("<wbr>").join(parts)


def safe_url(url: Any) -> str | None:
    """The address if a browser may follow it (http or https), else None."""
    return str(url) if url and urlparse(str(url)).scheme in ("http", "https") else None


def _payload(run: Run, report: dict[str, Any], charts: list[Chart], table: str) -> dict[str, Any]:
    """What the script needs, as one JSON object."""
    count = len(run.labels)
    passage = run.info.get("passage") or {}
    return {
        "labels": run.labels,
        "config": {name: theme.config(count, name) for name in ("light", "dark")},
        "colours": {name: theme.colours(count, name) for name in ("light", "dark")},
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


def _lead(report: dict[str, Any]) -> str:
    """One sentence: what was compared, on what, for how long."""
    model, data = report["model"] or {}, report["data"] or {}
    rows, training = report["variants"], report["training"] or {}
    source = f"text from {data['source']}" if data.get("source") else "text"
    runs = {row["variant"]: len(row["seeds"]) for row in rows}
    heldout = data.get("heldout_documents")
    size = words.si(rows[0]["parameters"])
    tokens = words.si(rows[0]["budgets"][-1]["tokens"])
    device = (report["device"] or {}).get("name", "one device")
    parts = [
        f"{words.count(len(rows), 'way')} to compute attention, each in a model of {size} "
        f"parameters, trained on the same {tokens} tokens of {source} in the same order",
        f"context {model['context']}" if model.get("context") else "",
        f"{training['precision']}" if training.get("precision") else "",
        words.runs_a_variant(runs, report["control"]),
        f"{heldout} held-out documents" if heldout else "",
        f"on {device}",
    ]
    return ", ".join(part for part in parts if part) + "."


def _repeat(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that fixes the run, nested settings flattened."""
    items = [("Command", report["command"]), ("Created", report["created"])]
    items += [("softmap", report["softmap_version"]), ("Commit", report["commit"])]
    items += [("Run", command) for command in report["runs"] or []]
    items.append(("Seeds", _seeds(report)))
    for title, key in (
        ("Data", "data"),
        ("Model", "model"),
        ("Training", "training"),
        ("Device", "device"),
        ("Versions", "versions"),
    ):
        settings = (report[key] or {}).items()
        items.append((title, ", ".join(f"{name} {_plain(value)}" for name, value in settings)))
    return [(name, str(value)) for name, value in items if value]


def _seeds(report: dict[str, Any]) -> str:
    """Those of all variants, and of each that has others."""
    every = report["seeds"]
    others = {v: s for v, s in (report["seeds_by_variant"] or {}).items() if s != every}
    parts = [", ".join(map(str, every))]
    parts += [f"{label}: {', '.join(map(str, seeds))}" for label, seeds in others.items()]
    return "; ".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
