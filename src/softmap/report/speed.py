"""Speed and memory as they were measured apart from training (``speed.json`` of a run).

Those of the training itself are affected by other work of the machine, which differs from trial to
trial. Where the file covers every finished variant, its numbers replace them.
"""

from __future__ import annotations

import os
from math import sqrt
from pathlib import Path
from typing import Any, TypedDict

from scipy import stats

from softmap.fields import check
from softmap.files.sealed import read_sealed

FILE = "speed.json"  #: of a run's folder


class _Spread(TypedDict):
    median: float
    low: float
    high: float
    count: int | None


class _Speed(TypedDict):
    tokens_per_second: _Spread
    peak_memory_bytes: int | None


class _SpeedFile(TypedDict):
    variants: dict[str, _Speed]
    disturbed: str | None


def read_speed(directory: Path) -> dict[str, Any] | None:
    """Returns the contents of ``speed.json``, or None where a run has none. Raises ``SoftmapError``
    for a damaged one.
    """
    path = directory / FILE
    if not os.path.lexists(path):
        return None
    found = read_sealed(path)
    check(str(path), found, _SpeedFile)
    return found


def replace_speed(results: list[dict[str, Any]], speed: dict[str, Any] | None) -> str:
    """Put what ``speed.json`` holds into the results, if it covers all of their variants.

    Returns what the page has to say of its speeds; nothing where they are beyond doubt.
    """
    labels = {result["variant"] for result in results}
    if speed is None or not labels <= speed["variants"].keys():
        return (
            "Speed and memory are those of the training itself: other work of the machine at the "
            "time affects them, and every comparison at equal time."
        )
    for result in results:
        mine = speed["variants"][result["variant"]]
        spread = mine["tokens_per_second"]
        result["tokens_per_second"] = spread["median"]
        result["tokens_per_second_range"] = [spread["low"], spread["high"]]
        result["speed_rounds"] = spread.get("count")
        if mine["peak_memory_bytes"] is not None:
            result["peak_memory_bytes"] = mine["peak_memory_bytes"]
    disturbed = speed["disturbed"]
    return f"When speed and memory were measured, {disturbed}." if disturbed else ""


def log_error(mine: dict[str, Any], control: dict[str, Any], level: float, of: int) -> float | None:
    """Returns half the width of the interval of log(speed / control's speed), one of ``of``
    simultaneous ones.

    A median of n rounds has the relative standard error 1.2533 sd / (sqrt(n) median) and n - 1
    degrees of freedom; sd is half the distance from the 10th to the 90th percentile (right for
    seven normal rounds, too wide for more). Sidak's level. None for speeds not measured in rounds.
    """
    rows = (mine, control)
    rounds = [row["speed_rounds"] or 0 for row in rows]
    if min(rounds) < 2:
        return None
    variance = 0.0
    for row, n in zip(rows, rounds, strict=True):
        low, high = row["tokens_per_second_range"]
        variance += (1.2533 * (high - low) / 2 / row["tokens_per_second"]) ** 2 / n
    return float(stats.t.isf((1 - level ** (1 / of)) / 2, min(rounds) - 1)) * sqrt(variance)
