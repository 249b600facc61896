"""The peak learning rates that a tuning has tried (``peaks.json`` of a run), and how flat they are.

Losses in it are those of shorter runs, on held-out windows that the page reports nothing else of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypedDict

from softmap.fields import check
from softmap.files.sealed import read_sealed

Row = dict[str, Any]
PEAKS = "peaks.json"  #: of a run's folder: its tuned peaks


class _Peak(TypedDict):
    peak_lr: float
    #: by peak, of each run; None: it diverged. A single run may be a plain number.
    losses: dict[str, list[float | None] | float | None] | None


class _PeaksFile(TypedDict):
    peaks: dict[str, _Peak]


def tried_peaks(directory: Path, results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Returns one dict for each variant that took a tuned peak: ``variant``, ``peak_lr`` and
    ``tried``.

    ``tried`` has for each peak in rising order ``mean`` and ``sd`` of the losses that are finite
    (None where they are too few), ``runs`` and how many of them ``diverged``.

    Args:
        results: of one finished run of each label.

    Raises ``SoftmapError`` for a damaged file.
    """
    path = directory / PEAKS
    if not os.path.lexists(path):
        return []
    found = read_sealed(path)
    check(str(path), found, _PeaksFile)
    peaks = {label: found["peaks"].get(_key(result)) for label, result in results.items()}
    return [
        {"variant": label, "peak_lr": peak["peak_lr"], "tried": _tried(peak["losses"])}
        for label, peak in peaks.items()
        if peak and peak.get("losses") and peak["peak_lr"] == results[label]["peak_lr"]
    ]


def _key(result: Mapping[str, Any]) -> str:
    return str(result.get("peak_of") or result.get("spec"))


def _tried(losses: Mapping[str, Any]) -> list[Row]:
    runs = {float(peak): y if isinstance(y, list) else [y] for peak, y in losses.items()}
    return [_point(peak, runs[peak]) for peak in sorted(runs)]


def _point(peak: float, losses: list[float | None]) -> Row:
    finite = [loss for loss in losses if loss is not None]
    return {
        "peak_lr": peak,
        "mean": mean(finite) if finite else None,
        "sd": stdev(finite) if len(finite) > 1 else None,
        "runs": len(losses),
        "diverged": len(losses) - len(finite),
    }


def table(rows: list[Row] | None) -> Row:
    """Returns ``peaks``, which any variant tried, and for each variant a text for each of them."""
    rows = rows or []
    peaks = sorted({point["peak_lr"] for row in rows for point in row["tried"]})
    return {
        "peaks": peaks,
        "rows": [
            {"variant": row["variant"], "taken": row["peak_lr"], "texts": _texts(row, peaks)}
            for row in rows
        ],
    }


def _texts(row: Row, peaks: list[float]) -> list[str]:
    points = {point["peak_lr"]: point for point in row["tried"]}
    return [_text(points[peak]) if peak in points else "" for peak in peaks]


def _text(point: Row) -> str:
    if point["mean"] is None:
        return "diverged"
    spread = "" if point["sd"] is None else f" ± {point['sd']:.3f}"
    lost = point["diverged"]
    return f"{point['mean']:.3f}{spread}" + f", {lost} of {point['runs']} diverged" * bool(lost)
