"""The contents of ``run.json``: this call's recipe, and what earlier calls have added to the
run.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from softmap.lab import machine
from softmap.lab.engine import Engine
from softmap.lab.entry import Entry
from softmap.lab.folder import earlier
from softmap.lab.peaks import Peaks
from softmap.lab.plan import Plan, slug
from softmap.lab.recipe import Recipe, dump, parse
from softmap.lab.seeds import joined
from softmap.lab.workbench import Workbench
from softmap.nn import own


def run_facts(
    folder: Path, plan: Plan, shared: Workbench, peaks: Peaks, command: str, engine: Engine
) -> dict[str, Any]:
    """Returns the contents of ``run.json``. Variants and seeds of earlier calls stay."""
    before = earlier(folder) or {}
    labels = [planned.label for planned in plan.models]
    labels += kept_variants(folder, before, labels)
    whole = dataclasses.replace(
        _whole(shared.recipe, labels, before, folder), peaks=peaks.by_variant or None
    )
    return {
        "name": shared.recipe.name,
        "created": before.get("created", machine.now()),
        **shared.facts(plan),
        "device": machine.device_facts(shared.device) | engine.facts(),
        "command": command,
        "variants": labels,
        "seeds": whole.seeds,
        "seeds_by_variant": {
            label: whole.seeds_of(entry, control=label == plan.control)
            for label, entry in zip(labels, whole.variants, strict=False)
        },
        **{key: before[key] for key in ("resolve", "time") if before.get(key)},
        "spreads": {
            mine.label: peaks.earlier[mine.spec]
            for mine in plan.models
            if mine.spec in peaks.earlier and mine.own is None and mine.peak_source == "tuned"
        },
        "settings": shared.settings,
        "recipe": dump(whole),
        **_homes(folder, shared.recipe, before),
    }


def kept_variants(folder: Path, before: dict[str, Any], labels: list[str]) -> list[str]:
    """Returns variants of earlier calls with the same settings and at least one finished trial."""
    gone = [label for label in before.get("variants", []) if label not in labels]
    return [
        label
        for label in gone
        if any((folder / "variants" / slug(label)).glob("seed*/result.json"))
    ]


def _homes(folder: Path, recipe: Recipe, before: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns, for each variant of the user's own, the folder of its file, relative to the run's.

    With it the run can be continued from any folder, and after both have been moved together.
    """
    homes = dict(before.get("homes") or {})
    for entry in recipe.variants:
        if own.files(entry.variant):
            homes[entry.name] = os.path.relpath(own.home(entry.variant), folder)
    return {"homes": homes} if homes else {}


def _whole(recipe: Recipe, labels: list[str], before: dict[str, Any], folder: Path) -> Recipe:
    """Returns the recipe with the seeds of the earlier one, and with its lines of the other
    ``labels``.
    """
    if not before.get("recipe"):
        seeds = sorted({*recipe.seeds, *before.get("seeds", [])})
        return dataclasses.replace(recipe, seeds=seeds)
    old = parse(before["recipe"], folder / "run.json")
    known = {entry.name: entry for entry in old.variants}
    entries = [
        _with_seeds(entry, known[label].seeds) if label in known else entry
        for label, entry in zip(labels, recipe.variants, strict=False)
    ]
    entries += [known[label] for label in labels[len(entries) :] if label in known]
    seeds = sorted({*recipe.seeds, *before["seeds"]})
    control = sorted({*recipe.control_seeds, *old.control_seeds})
    return dataclasses.replace(recipe, variants=entries, seeds=seeds, control_seeds=control)


def _with_seeds(entry: Entry, seeds: list[int]) -> Entry:
    return dataclasses.replace(entry, seeds=joined(entry.seeds, seeds))
