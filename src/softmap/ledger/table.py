"""The ledger as lines for a terminal, and the wording that the page shares with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from softmap.claims._claim import SCALES
from softmap.claims._find import claim as find
from softmap.claims._find import names
from softmap.ledger.results import Key, standing
from softmap.report.words import TIMES, duration, signed

Result = Mapping[str, Any]


def listed(found: dict[Key, dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each claim: its id, the verdict at each scale, the sentence."""
    width = max(map(len, names()))
    yield f"{'':<{width}}  " + "  ".join(f"{scale:<22}" for scale in SCALES)
    for name in names():
        claim = find(name)
        words = "  ".join(f"{word:<22}" for word in standing(claim, found).values())
        yield f"{name:<{width}}  {words}  {claim.sentence}"


def lines(found: dict[Key, dict[str, Any]]) -> Iterator[str]:
    """Yields a block for each result: the verdict, what it cost, and every row."""
    for (name, scale), result in sorted(found.items()):
        yield f"{name} ({scale}): {result['verdict']}"
        yield f"  {find(name).sentence}" if name in names() else "  (of another version)"
        yield f"  {result['said']} {result['runs']} runs, {duration(result['seconds'])}."
        for stage in result["stages"]:
            for study in stage["studies"]:
                yield f"  {stage['base']}: {study['measure']['title']}"
                for part in study["parts"]:
                    yield from (f"    {row_line(row, study)}" for row in part["rows"])
        yield ""


def row_line(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Returns a row in words: ``dape beside kerple: -0.010 [-0.020, 0.001]: not resolved``."""
    name = f"{row['arm']} {row['what']}".strip()
    verdict = f": {row['verdict']}" if row["verdict"] else ""
    return f"{name} beside {row['against']}: {effect(row, study)}{verdict}"


def first(result: Result) -> str:
    """Returns the effect of the first row of the largest base, with the arm's name."""
    study = result["stages"][-1]["studies"][0]
    rows = [row for part in study["parts"] for row in part["rows"]]
    return f"{rows[0]['arm']} {effect(rows[0], study)}" if rows else ""


def effect(row: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """Returns the difference, or the ratio, with its interval."""
    if row["lost"]:
        return "most trainings diverged"
    if row["mean"] is None:
        return "no runs"
    digits = decimals(row)
    mean, low, high = (number(row[n], study, digits) for n in ("mean", "low", "high"))
    if row["low"] is None and row["high"] is None:  # no spread is known
        return mean
    return f"{mean} [{low}, {high}]"


def decimals(row: Mapping[str, Any]) -> int:
    """Returns the decimals of a row's numbers: three, and more where the largest is so small that
    it would have less than two digits.
    """
    largest = max(abs(row[n] or 0.0) for n in ("mean", "low", "high"))
    return 3 if largest == 0 or largest >= 0.01 else 1 - math.floor(math.log10(largest))


def number(value: float | None, study: Mapping[str, Any], digits: int) -> str:
    """Returns a ratio or a signed difference; three dots stand for an end that the runs cannot
    tell.
    """
    if value is None:
        return "…"
    if study["measure"]["unit"] == "x":
        return f"{value:.2f}{TIMES}"
    return signed(value, digits if abs(value) < 10 else 1)
