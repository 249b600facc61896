"""Each variant's peak learning rate, found on the same small grid for all.

A peak is chosen by its loss on windows that the comparison never reports: held-out windows outside
of those that it evaluates. Runs are shorter than the comparison's and use a seed of their own. The
file that comes out keeps every point, so that a reader can see how flat the choice was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

import softmap
from softmap.data import order
from softmap.errors import SoftmapError
from softmap.evals.loss import mean_and_stderr, token_losses
from softmap.fields import check
from softmap.files import sweep
from softmap.lab import bench, files, measure, workers
from softmap.lab.bench import Bench
from softmap.lab.explain import chosen
from softmap.lab.folder import POINTS, check_folder, clear
from softmap.lab.peaks import tuned_for
from softmap.lab.plan import Plan, make_plan
from softmap.lab.preflight import preflight, settled
from softmap.lab.progress import Display
from softmap.lab.recipe import PEAKS, Recipe
from softmap.lab.request import Request, with_jobs
from softmap.lab.schedule import Task, results
from softmap.lab.trial import OnStep, Trial, build, fingerprint, fit
from softmap.train import NonFiniteLoss

TIE = 0.05  #: nats; a seed moves a small model's loss by about as much


class _PointFile(TypedDict):
    loss: float | None  # None: it was not finite


def tune(recipe: Recipe, request: Request, display: Display | None = None) -> Path:
    """Try every peak of ``recipe.tuning.grid`` on every variant; returns the file of peaks.

    The file is ``peaks.json`` of the run's folder, where :func:`compare` finds it. Finished points
    are kept in ``tuning/``, so a tuning that was interrupted, or is given another variant, goes on.
    Raises ``SoftmapError`` where the recipe gives peaks itself, or the folder holds trials that
    were trained with other peaks.
    """
    if isinstance(recipe.peaks, dict):
        raise SoftmapError("--tune: the recipe gives the peaks itself; take them out of it")
    recipe, display = settled(recipe), display or Display()
    # Points are trained without peaks of their own: each brings the one that it tries.
    short = _shortened(dataclasses.replace(recipe, peaks=None))
    folder = request.out / recipe.name
    preflight(short, display.note)
    with display, files.lock(folder):
        check_folder(folder)
        if request.fresh:
            _clear(folder)
        _check_untrained(folder)
        corpus = bench.corpus(short, request.out, display)
        plan = make_plan(short, corpus.tokenizer.vocab_size)
        shared = bench.make(short, plan, corpus)
        for candidate in plan.candidates:  # builds native code, if any takes it, once for all
            chosen(candidate.config, short.model.context, shared.device)
        sweep(folder, f".{PEAKS}.[0-9]*.tmp")
        sweep(folder / POINTS)
        request, points = with_jobs(request, plan, shared), _points(shared, plan, folder / POINTS)
        batch = short.training.batch_size * short.model.context
        display.plan({point.name: 1 for point in points}, short.training.steps, batch)
        losses = _losses(points, shared, display, request)
        path = folder / PEAKS
        files.write_json(path, _facts(losses, shared, recipe, request))
    for warning in edge_warnings(losses, recipe.tuning.grid):
        display.note(warning)
    return path


def _clear(folder: Path) -> None:
    """Forget the peaks and points of an earlier tuning, and the trials that followed it."""
    clear(folder)
    (folder / PEAKS).unlink(missing_ok=True)
    shutil.rmtree(folder / POINTS, ignore_errors=True)


def _check_untrained(folder: Path) -> None:
    """Peaks come before the trials: those that have begun would have to be thrown away."""
    if not (folder / POINTS).exists() and any(folder.glob("variants/*/seed*/trial.json")):
        raise SoftmapError(
            f"{folder} holds trials that were trained with other peaks: --fresh throws them away, "
            "--name NAME keeps them"
        )


def tuning_windows(heldout: np.ndarray, recipe: Recipe) -> np.ndarray:
    """(n, context + 1) held-out windows, none of which the comparison evaluates.

    Raises ``SoftmapError`` when the held-out text has none to spare.
    """
    context, wanted = recipe.model.context, recipe.tuning.windows
    every = order.windows(heldout, context)
    reported = order.windows(heldout, context, recipe.evaluation.windows)
    final = {window.tobytes() for window in reported}
    spare = np.array([i for i, window in enumerate(every) if window.tobytes() not in final])
    if not len(spare):
        raise SoftmapError(
            f"tuning needs held-out windows beside the {len(final)} that the comparison takes, "
            f"found {len(every)} in all: --set evaluation.windows={max(1, len(every) * 3 // 4)} "
            "leaves a quarter of them, a larger data.heldout gives more"
        )
    chosen = np.linspace(0, len(spare) - 1, min(wanted, len(spare))).round().astype(int)
    return every[spare[chosen]]


def edge_warnings(points: dict[str, dict[str, float | None]], grid: list[float]) -> list[str]:
    """A sentence for each variant whose best peak is the grid's first or last."""
    best = {name: best_peak(name, losses) for name, losses in points.items()}
    return [
        f"warning: {name}: the best peak, {peak:g}, is at the edge of the grid: widen tuning.grid"
        for name, peak in best.items()
        if len(grid) > 1 and peak in (grid[0], grid[-1])
    ]


def best_peak(name: str, losses: dict[str, float | None]) -> float:
    """The lowest peak whose loss is within ``TIE`` of the lowest; diverged points never win.

    One seed cannot tell such peaks apart, and the higher of two is nearer to where another seed
    diverges.
    """
    finite = {float(peak): loss for peak, loss in losses.items() if loss is not None}
    if not finite:
        raise SoftmapError(f"{name}: the training diverged at every peak of tuning.grid")
    lowest = min(finite.values())
    return min(peak for peak, loss in finite.items() if loss <= lowest + TIE)


def _shortened(recipe: Recipe) -> Recipe:
    """The recipe of one point: fewer steps, one budget, so each point ends fully decayed."""
    given = recipe.training
    steps = max(2, round(recipe.tuning.share * given.steps))
    # The warm-up keeps its length in steps, as the comparison's own runs will have it.
    warmup = min(given.warmup / recipe.tuning.share, 0.5)
    training = dataclasses.replace(given, steps=steps, budgets=[1.0], warmup=warmup)
    variants = [dataclasses.replace(entry, peak_lr=None, seeds=[]) for entry in recipe.variants]
    return dataclasses.replace(
        recipe, training=training, variants=variants, seeds=[recipe.tuning.seed], control_seeds=[],
        tuning=dataclasses.replace(recipe.tuning, seed=0 if recipe.tuning.seed else 1),
    )  # fmt: skip


@dataclass(frozen=True)
class _Point:
    """One variant at one peak: ``trial.folder`` keeps what comes of it."""

    trial: Trial

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.trial.candidate.label} at {self.trial.candidate.peak_lr:g}"

    def task(self) -> Task:
        """To train it."""
        return Task(self.name, self.trial.seed, self.trial.folder, self.train)

    def found(self) -> dict[str, Any] | None:
        """The file of an earlier call. Raises ``SoftmapError`` where it is damaged."""
        path = self.trial.folder / "point.json"
        found: dict[str, Any] | None = files.read_json(path)
        if found is not None:
            check(str(path), found, _PointFile)
        return found

    def train(self, shared: Bench, on_step: OnStep) -> dict[str, Any]:
        """Train it, from where it was left."""
        trial = self.trial
        model = build(trial.candidate, trial.seed, shared.device)
        found: dict[str, Any] = {"loss": None}
        try:
            fit(
                model, trial.candidate, shared.recipe, shared.corpus.train, trial.seed,
                trial.folder, on_step=on_step,
            )  # fmt: skip
            found["loss"] = self._heldout(model, shared)
        except NonFiniteLoss as error:
            found["diverged"] = str(error)
        files.write_json(trial.folder / "point.json", found)
        return found

    def _heldout(self, model: Any, shared: Bench) -> float | None:
        windows = tuning_windows(shared.corpus.heldout, shared.recipe)
        batch = shared.recipe.evaluation.batch_size
        loss, _ = mean_and_stderr(token_losses(model, windows, batch_size=batch))
        return loss if math.isfinite(loss) else None


def _points(shared: Bench, plan: Plan, folder: Path) -> list[_Point]:
    """All points, each in a folder that is named after all that its loss depends on."""
    grid, seed = shared.recipe.tuning.grid, shared.recipe.seeds[0]
    windows = len(tuning_windows(shared.corpus.heldout, shared.recipe))
    points = []
    for mine in plan.candidates:
        for peak in grid:
            trial = Trial(dataclasses.replace(mine, peak_lr=peak), seed, folder)
            mark = fingerprint({**trial.identity(shared), "windows": windows})
            named = dataclasses.replace(trial, folder=folder / f"{mine.slug}-{mark}")
            points.append(_Point(named))
    return points


def _losses(
    points: list[_Point], shared: Bench, display: Display, request: Request
) -> dict[str, dict[str, float | None]]:
    """The loss of each variant at each peak; None where it diverged."""
    kept = [(point, point.found()) for point in points]
    losses: dict[str, dict[str, float | None]] = {p.trial.candidate.spec: {} for p in points}

    def end(point: _Point, found: dict[str, Any], *, skipped: bool = False) -> None:
        shutil.rmtree(point.trial.folder / "checkpoints", ignore_errors=True)
        mine, loss = point.trial.candidate, found.get("loss")
        losses[mine.spec][repr(mine.peak_lr)] = loss
        seen = math.nan if loss is None else loss
        display.finish(point.name, point.trial.seed, seen, skipped=skipped)
        if "diverged" in found and not skipped:
            display.note(found["diverged"])

    for point, found in kept:
        if found is not None:
            end(point, found, skipped=True)
    tasks = {point.task(): point for point, found in kept if found is None}
    with contextlib.closing(
        results(tasks, shared, display, request.jobs or 1, request.out)
    ) as trained:
        for task, found in trained:
            end(tasks[task], found)
    grid = [repr(peak) for peak in shared.recipe.tuning.grid]
    return {spec: {peak: found[peak] for peak in grid} for spec, found in losses.items()}


def _facts(
    losses: dict[str, dict[str, float | None]], shared: Bench, recipe: Recipe, request: Request
) -> dict[str, Any]:
    """The file of peaks: the choice, every point, and what is needed to repeat it."""
    found = measure.provenance(shared.device)
    return {
        "peaks": {
            name: {"peak_lr": best_peak(name, of_peaks), "losses": of_peaks}
            for name, of_peaks in losses.items()
        },
        "command": request.command,
        "softmap_version": softmap.__version__,
        **found,
        "device": found["device"] | workers.facts(request.jobs or 1),
        "seed": shared.recipe.seeds[0],
        "windows": len(tuning_windows(shared.corpus.heldout, shared.recipe)),
        "tuned_for": tuned_for(recipe),
        "settings": shared.settings,
    }
