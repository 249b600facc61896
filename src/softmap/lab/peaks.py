"""Tuned peak learning rates, and whether they were found for this comparison.

A run keeps its peaks in ``peaks.json`` of its own folder; a recipe may name a file of them. Either
is used only if it was made with the same model, text, batch and number of steps: peaks of another
setting would favour the variants that happen to be in the file.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

from softmap.errors import SoftmapError, shown
from softmap.fields import Range, check
from softmap.lab import files
from softmap.lab.recipe import Recipe, shipped
from softmap.lab.sections import FREE
from softmap.report.peaks import PEAKS


class _Peak(TypedDict):
    peak_lr: Annotated[float, Range(above=0)]


class _Known(TypedDict):
    """The losses of a variant's runs, of each at each budget."""

    peak_lr: Annotated[float, Range(above=0)]
    losses: list[list[float]]


class _Spreads(TypedDict):
    training: dict
    runs: dict[str, _Known]


class _PeaksFile(TypedDict):
    peaks: dict[str, _Peak]
    tuned_for: dict
    spreads: _Spreads | None


@dataclass(frozen=True)
class Peaks:
    """Peaks by canonical variant.

    Attributes:
        source: "tuned" on the grid that all share, or "recipe".
        path: the file they are from.
        unused: a sentence for each file that was found for another setting.
        earlier: by canonical variant the losses (runs, budgets) of many runs with this same recipe
            and peak, where the file has some.
    """

    by_variant: dict[str, float] = field(default_factory=dict)
    source: str = "recipe"
    path: Path | None = None
    unused: tuple[str, ...] = ()
    earlier: dict[str, list[list[float]]] = field(default_factory=dict)


def find_peaks(recipe: Recipe, folder: Path | None = None) -> Peaks:
    """Returns the peaks for a recipe: its own, those of the run in ``folder``, or of the file it
    names.

    Raises ``SoftmapError`` for a damaged file, and for one that the recipe names and that is
    missing.
    """
    if isinstance(recipe.peaks, dict):
        return Peaks(recipe.peaks)
    unused: list[str] = []
    for path in _paths(recipe, folder):
        found = _read(path)
        other = _differences(found["tuned_for"], tuned_for(recipe))
        if not other:
            peaks = {name: float(point["peak_lr"]) for name, point in found["peaks"].items()}
            return Peaks(peaks, "tuned", path, tuple(unused), _earlier(found, recipe))
        if not path.is_relative_to(shipped()):  # no note where the demo's peaks do not apply
            unused.append(
                f"not used: the peak learning rates in {path} were tuned for another setting "
                f"({other}); --tune tunes them for this one"
            )
    return Peaks(unused=tuple(unused))


def _earlier(found: Any, recipe: Recipe) -> dict[str, list[list[float]]]:
    """Returns the losses of runs with the recipe's own spread, by canonical variant."""
    spreads = found.get("spreads") or {"training": {}, "runs": {}}
    if _differences(spreads["training"], trained_as(recipe)):
        return {}
    peaks = {name: point["peak_lr"] for name, point in found["peaks"].items()}
    runs = {name: one for name, one in spreads["runs"].items() if name in peaks}
    return {n: one["losses"] for n, one in runs.items() if one["peak_lr"] == peaks[n]}


def trained_as(recipe: Recipe) -> dict[str, Any]:
    """Returns what the spread of runs depends on beside what peaks depend on: the whole
    training.
    """
    kept = recipe.training.settings(FREE)
    return kept | {"budgets": recipe.training.shares, "windows": recipe.evaluation.windows}


def tuned_for(recipe: Recipe) -> dict[str, Any]:
    """Returns what a best peak mainly depends on, as a file of peaks keeps it: model, text,
    batch, steps.
    """
    data = dataclasses.asdict(recipe.data)
    if isinstance(data["data"], str):
        data["data"] = os.path.normpath(data["data"])
    return {
        "data": data,
        "model": dataclasses.asdict(recipe.model),
        "batch_size": recipe.training.batch_size,
        "steps": recipe.training.steps,
    }


def _paths(recipe: Recipe, folder: Path | None) -> list[Path]:
    mine = [folder / PEAKS] if folder and os.path.lexists(folder / PEAKS) else []
    named = recipe.peaks_path
    if named is not None and not mine and not os.path.lexists(named):
        raise SoftmapError(f"{named}: no such file of tuned peaks; --tune makes that of a run")
    return mine + [path for path in (named,) if path and os.path.lexists(path)]


def _read(path: Path) -> Any:
    found = files.read_json(path)
    try:
        check(str(path), found, _PeaksFile)
    except SoftmapError as error:
        raise SoftmapError(
            f"{path}: expected the peaks that --tune writes, found others ({error})"
        ) from None
    return found


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns the first three differences between two settings, in words."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    listed = [f"{key} {shown(old.get(key))}, here {shown(new.get(key))}" for key in keys[:3]]
    return "; ".join(listed) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        inside = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else None
        flat.update({f"{prefix}{key}": value} if inside is None else inside)
    return flat
