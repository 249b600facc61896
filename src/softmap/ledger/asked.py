"""Studies of questions: a suite asks the base's models, trained or as initialised."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from softmap.claims._claim import Asked, Study, Suited
from softmap.lab import workbench
from softmap.lab.asking import run as asking
from softmap.lab.plan import make_plan
from softmap.lab.trial import build, save_model
from softmap.ledger.judge import Part, differences
from softmap.ledger.trained import read
from softmap.ledger.workspace import Workspace

Models = Mapping[str, Mapping[int, Path]]  # arm, seed
Cell = Mapping[str, Any]


def measure(study: Asked, workspace: Workspace) -> list[Part]:
    """Ask the models that are there, or untrained ones; returns the findings."""
    if not study.trained:
        with tempfile.TemporaryDirectory() as folder:
            models = _started(study, workspace, Path(folder))
            text = workspace.recipe(study.base, {}).data
            return _parts(study, models, workspace, {}, data=text.data, field=text.field)
    curves, diverged = read(study, workspace)
    models = {
        name: {
            seed: workspace.trial(arm.base or study.base, arm.variant, seed) / "model"
            for seed in curves[name]
        }
        for name, arm in study.models.items()
    }
    return _parts(study, models, workspace, diverged)


def _parts(
    study: Asked, models: Models, workspace: Workspace, diverged: Mapping[str, int], **text: Any
) -> list[Part]:
    words = [f"{name}={path}" for name, found in models.items() for path in found.values()]
    cache = workspace.folder / workbench.CACHE
    given = asking.EvalRequest(words, [study.suite], device="cpu", cache=cache, **text)
    suite = asking.ask(given, workspace.tell)["suites"][study.suite]
    return parts(study, suite, {name: list(found) for name, found in models.items()}, diverged)


def parts(
    study: Suited,
    suite: Mapping[str, Any],
    seeds: Mapping[str, list[int]],
    diverged: Mapping[str, int],
) -> list[Part]:
    """Returns the parts of an asked suite that the study reads, each with its rows.

    Args:
        seeds: the seeds of every arm's runs, in the order in which they were asked.
    """
    if study.within:
        return [_conditions(study, suite["cells"], seeds, diverged)]
    found = []
    for what, cell in _cells(study, suite["cells"]):
        values = _values(cell, seeds)
        rows = differences(study, values, diverged, what if study.at == "each" else "")
        found.append(Part(study.measure, values, rows, diverged, what))
    if found:
        found[0] = _with_curve(found[0], study, suite)
    return found


def _conditions(
    study: Suited,
    cells: list[Cell],
    seeds: Mapping[str, list[int]],
    diverged: Mapping[str, int],
) -> Part:
    """Returns one part that compares conditions of the same runs.

    They are treated as independent: runs that are high in all of them widen the interval, so the
    verdict is conservative.
    """
    values: dict[str, dict[int, float]] = {}
    for cell in cells:
        if cell["measure"] == study.reads and study.within in (cell["at"] or {}):
            name = f"{study.within} {cell['at'][study.within]}"
            (values[name],) = _values(cell, seeds).values()
    wanted = {name: values[name] for name in study.variants if name in values}
    return Part(study.measure, wanted, differences(study, wanted), diverged)


def _values(cell: Cell, seeds: Mapping[str, list[int]]) -> dict[str, dict[int, float]]:
    """Returns the numbers of a cell, by model and seed."""
    return {
        name: {seeds[name][_number(run)]: one["mean"] for run, one in found["runs"].items()}
        for name, found in cell["models"].items()
    }


def _cells(study: Suited, cells: list[Cell]) -> list[tuple[str, Cell]]:
    """Returns the headline, or the cells by condition: all of them, or the largest."""
    mine = [cell for cell in cells if cell["measure"] == study.reads]
    if study.at == "":
        return [("", cell) for cell in mine if cell["at"] is None]
    under = [(_condition(cell), cell) for cell in mine if cell["at"] is not None]
    return under if study.at == "each" else under[-1:]


def _number(run: str) -> int:
    """Returns the index of a run among those of a label: ``run`` is the first, ``run.2`` the
    second.
    """
    return int(run.partition(".")[2] or 1) - 1


def _condition(cell: Cell) -> str:
    return "at " + ", ".join(f"{name} {value}" for name, value in cell["at"].items())


def _with_curve(part: Part, study: Suited, suite: Mapping[str, Any]) -> Part:
    """Returns the part with its means by the suite's condition, where that is a single number."""
    points = [
        {"variant": name, "x": value, "value": round(numbers["mean"], 5)}
        for cell in suite["cells"]
        if cell["measure"] == study.reads and cell["at"] is not None and len(cell["at"]) == 1
        for value in cell["at"].values()
        if isinstance(value, int | float)
        for name, numbers in cell["models"].items()
    ]
    if len({point["x"] for point in points}) < 2:
        return part
    (name,) = next(c["at"] for c in suite["cells"] if c["measure"] == study.reads and c["at"])
    log = max(p["x"] for p in points) >= 16 * max(1, min(p["x"] for p in points))
    title = name.capitalize() + (" (log scale)" if log else "")
    curve = {"x": title, "y": study.measure.title, "log": log, "points": points}
    return dataclasses.replace(part, curve=curve)


def _started(study: Study, workspace: Workspace, folder: Path) -> dict[str, dict[int, Path]]:
    """Returns models as they are before the first step, saved in ``folder``."""
    runs = {name: workspace.runs(name in study.references) for name in study.variants}
    recipe = workspace.recipe(study.base, runs)
    corpus = workbench.corpus(recipe, workspace.folder, workspace.display())
    plan = make_plan(recipe, corpus.tokenizer.vocab_size)
    found: dict[str, dict[int, Path]] = {name: {} for name in runs}
    for planned in plan.models:
        for seed in range(runs.get(planned.label, 0)):
            path = folder / planned.slug / str(seed)
            path.mkdir(parents=True)
            save_model(build(planned, seed, torch.device("cpu")), path)
            corpus.tokenizer.save(path)
            found[planned.label][seed] = path
    return found
