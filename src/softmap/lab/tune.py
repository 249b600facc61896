"""Each variant's peak learning rate, found on the same small grid for all.

A peak is chosen by the mean loss of its runs on windows that the comparison never reports: held-out
windows outside of those that it evaluates. Runs are shorter than the comparison's and have their
own seeds. A variant whose best peak is at the edge of its grid tries further ones. The resulting
file keeps every run, so that a reader can see how flat the optimum was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import softmap
from softmap.errors import SoftmapError
from softmap.files import sweep
from softmap.lab import files, grid, machine, workbench
from softmap.lab.explain import chosen
from softmap.lab.folder import TUNING, check_folder, clear
from softmap.lab.peaks import tuned_for
from softmap.lab.plan import Plan, make_plan
from softmap.lab.preflight import dtype_of, preflight, with_precision
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.request import Request, with_jobs
from softmap.lab.schedule import results
from softmap.lab.sections import Tuning
from softmap.lab.tuning_points import TuningPoint, tuning_point, tuning_windows
from softmap.lab.workbench import Workbench
from softmap.report.peaks import PEAKS


def tune(recipe: Recipe, request: Request, display: Display | None = None) -> Path:
    """Try every peak of ``recipe.tuning.grid`` on every variant; returns the file of peaks.

    The file is ``peaks.json`` of the run's folder, where [`compare`][] finds it. A variant that
    diverges at every peak has none in it. Finished points are kept in ``tuning/``, so an
    interrupted tuning, or one with another variant, is continued. Raises ``SoftmapError`` where the
    recipe gives peaks itself, or the folder has trials that were trained with other peaks.
    """
    if isinstance(recipe.peaks, dict):
        raise SoftmapError("--tune: expected a recipe without peaks, found its own; remove them")
    recipe, display = with_precision(recipe), display or Display()
    # The recipe's peaks do not apply: each point has the peak that it tries.
    short = _shortened(dataclasses.replace(recipe, peaks=None))
    folder = request.out / recipe.name
    preflight(short, display.note)
    with display, files.lock(folder):
        check_folder(folder)
        request.engine.check(folder, display.note)
        if request.fresh:
            _clear(folder)
        _check_untrained(folder)
        corpus = workbench.corpus(short, request.out, display)
        plan = make_plan(short, corpus.tokenizer.vocab_size)
        shared = workbench.make(short, plan, corpus)
        for planned in plan.models:  # builds native code, if needed, once for all points
            chosen(planned.config, short.model.context, shared.device, dtype_of(shared.recipe))
        sweep(folder, f".{PEAKS}.[0-9]*.tmp")
        sweep(folder / TUNING)
        request = with_jobs(request, plan, shared)
        batch = short.training.batch_size * short.model.context
        display.plan({}, short.training.steps, batch)
        losses = _search(shared, plan, folder / TUNING, display, request)
        path = folder / PEAKS
        files.write_json(path, _facts(losses, shared, recipe, request))
    for name, tried in losses.items():
        for sentence in remarks(name, tried):
            display.note(sentence)
    return path


def _clear(folder: Path) -> None:
    """Delete the peaks and points of an earlier tuning, and the trials that used them."""
    clear(folder)
    (folder / PEAKS).unlink(missing_ok=True)
    shutil.rmtree(folder / TUNING, ignore_errors=True)


def _check_untrained(folder: Path) -> None:
    """Raise ``SoftmapError`` where trials have begun, which tuning would invalidate."""
    if not (folder / TUNING).exists() and any(folder.glob("variants/*/seed*/trial.json")):
        raise SoftmapError(
            f"{folder} holds trials that were trained with other peaks: --fresh deletes them, "
            "--name NAME keeps them"
        )


def remarks(name: str, tried: grid.Tried) -> list[str]:
    """Returns a remark on a variant's choice; none if the best peak is within its grid."""
    top = grid.best(tried)
    if top is None:
        return [
            f"{name}: no peak, since training diverged at all from {min(tried):g} to "
            f"{max(tried):g}; a lower tuning.grid may help"
        ]
    if not grid.at_edge(tried):
        return []
    return [
        f"warning: {name}: the best peak, {top:g}, is at the edge of the {len(tried)} tried ones: "
        "move tuning.grid"
    ]


def _shortened(recipe: Recipe) -> Recipe:
    """Returns the recipe of a point: fewer steps and one budget, so that each point is fully
    decayed.
    """
    given = recipe.training
    steps = max(2, round(recipe.tuning.share * given.steps))
    # The warm-up keeps its length in steps, as the comparison's own runs will have it.
    warmup = min(given.warmup / recipe.tuning.share, 0.5)
    if any(entry.training for entry in recipe.variants):
        # Schedules differ at several budgets, so each point has all of them.
        training = dataclasses.replace(given, steps=steps)
    else:
        training = dataclasses.replace(given, steps=steps, budgets=[1.0], warmup=warmup)
    variants = [dataclasses.replace(entry, peak_lr=None, seeds=[]) for entry in recipe.variants]
    return dataclasses.replace(
        recipe, training=training, variants=variants, control_seeds=[],
        seeds=list(recipe.tuning.seeds), tuning=_no_seed_of(recipe.tuning),
    )  # fmt: skip


def _no_seed_of(tuning: Tuning) -> Tuning:
    """Returns the section with a seed that is not among its own, which belong to the points."""
    return dataclasses.replace(tuning, seed=tuning.seeds.stop % 2**32, runs=1)


def _search(
    shared: Workbench, plan: Plan, folder: Path, display: Display, request: Request
) -> dict[str, dict[float, list[float | None]]]:
    """Returns the losses at each peak of each variant's grid, extended where the best is at an
    edge.
    """
    grid_of_all = shared.recipe.tuning.grid
    variants = {planned.key: planned for planned in plan.models}
    tried: dict[str, dict[float, list[float | None]]] = {spec: {} for spec in variants}
    wanted = {spec: list(grid_of_all) for spec in variants}
    while any(wanted.values()):
        points = [
            tuning_point(shared, mine, peak, seed, folder)
            for spec, mine in variants.items()
            for peak in wanted[spec]
            for seed in shared.recipe.seeds
        ]
        losses = _losses(points, shared, folder.parent, display, request)
        for point in points:
            mine = point.trial.planned
            tried[mine.key].setdefault(mine.peak_lr, []).append(losses[point.trial.folder])
        further = {spec: grid.wider(found, grid_of_all) for spec, found in tried.items()}
        wanted = {spec: [] if peak is None else [peak] for spec, peak in further.items()}
        for spec, peak in further.items():
            if peak is not None:
                display.note(f"{spec}: the best peak is at the edge of its grid: trying {peak:g}")
    return {spec: dict(sorted(found.items())) for spec, found in tried.items()}


def _losses(
    points: list[TuningPoint], shared: Workbench, folder: Path, display: Display, request: Request
) -> dict[Path, float | None]:
    """Returns the loss of each point, by its folder; None where it diverged."""
    display.more(Counter(point.name for point in points))
    losses: dict[Path, float | None] = {}

    def end(point: TuningPoint, found: dict[str, Any], *, skipped: bool = False) -> None:
        shutil.rmtree(point.trial.folder / "checkpoints", ignore_errors=True)
        loss = losses[point.trial.folder] = found.get("loss")
        seen = math.nan if loss is None else loss
        display.finish(point.name, point.trial.seed, seen, skipped=skipped)
        if "diverged" in found and not skipped:
            display.note(found["diverged"])

    kept = [(point, point.found()) for point in points]
    for point, found in kept:
        if found is not None:
            end(point, found, skipped=True)
    engine = request.engine
    give = shared if engine.here else workbench.PackedWorkbench.of(shared, request.out)
    tasks = {point.task(give): point for point, found in kept if found is None}
    with contextlib.closing(
        results(list(tasks), engine, display, folder, shared.device)
    ) as trained:
        for task, found in trained:
            end(tasks[task], found)
    return losses


def _facts(
    losses: Mapping[str, grid.Tried], shared: Workbench, recipe: Recipe, request: Request
) -> dict[str, Any]:
    """Returns the file of peaks: the choices, every run at every peak, and what reproducing it
    needs.
    """
    found = machine.provenance(shared.device)
    choices = {name: (grid.chosen(tried), _named(tried)) for name, tried in losses.items()}
    return {
        "peaks": {
            name: {"peak_lr": peak, "losses": tried}
            for name, (peak, tried) in choices.items()
            if peak is not None
        },
        "diverged": {name: tried for name, (peak, tried) in choices.items() if peak is None},
        "command": request.command,
        "softmap_version": softmap.__version__,
        **found,
        "device": found["device"] | request.engine.facts(),
        "seeds": shared.recipe.seeds,
        "windows": len(tuning_windows(shared.corpus.heldout, shared.recipe)),
        "tuned_for": tuned_for(recipe),
        "settings": shared.settings,
    }


def _named(tried: grid.Tried) -> dict[str, list[float | None]]:
    return {repr(peak): list(losses) for peak, losses in tried.items()}
