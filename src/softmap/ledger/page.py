"""The ledger: one self-contained page with a row for each claim."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import softmap
from softmap.claims._claim import SCALES, Claim
from softmap.claims._find import claim as find
from softmap.claims._find import names
from softmap.claims._rules import VERDICTS
from softmap.files import write
from softmap.ledger import table
from softmap.ledger.charts import charts
from softmap.ledger.results import Key
from softmap.report.marks import marks
from softmap.report.page import environment, simple
from softmap.report.words import duration

HERE = Path(__file__).parent


def write_page(path: Path, found: dict[Key, dict[str, Any]]) -> Path:
    """Write the page of these results, completely or not at all; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, page(found))
    return path


def page(found: dict[Key, dict[str, Any]]) -> str:
    """Returns the page as one string of HTML that needs no network."""
    labels = _labels(found)
    place = {label: (n, mark) for n, (label, mark) in enumerate(zip(labels, marks(labels)))}  # noqa: B905
    drawn = {
        key: [one for stage in result["stages"] for one in charts(_key(key, stage), stage, place)]
        for key, result in found.items()
    }
    return (
        environment(HERE)
        .get_template("page.html")
        .render(
            version=softmap.__version__,
            entries=_entries(found),
            scales=SCALES,
            counts=_counts(found),
            drawn=drawn,
            marks=marks(labels),
            table=table,
            duration=duration,
            **simple(labels, chain.from_iterable(drawn.values())),
        )
    )


def _entries(found: dict[Key, dict[str, Any]]) -> list[tuple[Claim, list[tuple[str, Any]]]]:
    """Returns every claim with its results by scale, claims with results first."""
    entries = []
    for name in names():
        claim = find(name)
        entries.append((claim, [(s, found[name, s]) for s in SCALES if (name, s) in found]))
    return sorted(entries, key=lambda entry: not entry[1])


def _counts(found: dict[Key, dict[str, Any]]) -> list[tuple[str, int]]:
    counts = Counter(result["verdict"] for result in found.values())
    return [(word, counts[word]) for word in VERDICTS if counts[word]]


def _labels(found: dict[Key, dict[str, Any]]) -> list[str]:
    """Returns the labels of everything that a curve shows."""
    points = [
        point["variant"]
        for result in found.values()
        for stage in result["stages"]
        for study in stage["studies"]
        for part in study["parts"]
        for point in (part["curve"] or {"points": []})["points"]
    ]
    return list(dict.fromkeys(points))


def _key(key: Key, stage: dict[str, Any]) -> str:
    return "_".join([*key, stage["base"]]).replace("-", "_")
