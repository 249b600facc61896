"""Speed and memory as they were measured apart from training (``speed.json`` of a run).

Those of the training itself suffer from whatever else the machine did, which is another thing at
each trial. Where the file covers every finished variant, its numbers stand in for them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict

from softmap.fields import check
from softmap.files.sealed import read_sealed

FILE = "speed.json"  #: of a run's folder


class _Spread(TypedDict):
    median: float
    low: float
    high: float


class _Speed(TypedDict):
    tokens_per_second: _Spread
    peak_memory_bytes: int | None


class _SpeedFile(TypedDict):
    variants: dict[str, _Speed]
    disturbed: str | None


def read_speed(directory: Path) -> dict[str, Any] | None:
    """The contents of ``speed.json``; None where a run has none. Raises for a damaged one."""
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
            "Speed and memory are those of the training itself: what else the machine did at the "
            "time is in them, and in every comparison at equal time."
        )
    for result in results:
        mine = speed["variants"][result["variant"]]
        spread = mine["tokens_per_second"]
        result["tokens_per_second"] = spread["median"]
        result["tokens_per_second_range"] = [spread["low"], spread["high"]]
        if mine["peak_memory_bytes"] is not None:
            result["peak_memory_bytes"] = mine["peak_memory_bytes"]
    disturbed = speed["disturbed"]
    return f"When speed and memory were measured, {disturbed}." if disturbed else ""
