"""Each variant's peak learning rate, found on the same small grid for all.

A peak is chosen by its loss on windows that the comparison never reports: held-out windows outside
of those that it evaluates. Runs are shorter than the comparison's and use a seed of their own. The
file that comes out keeps every point, so that a reader can see how flat the choice was.
"""

from __future__ import annotations

import dataclasses
import functools
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
from softmap.lab import bench, files, measure
from softmap.lab.bench import Bench
from softmap.lab.compare import Request, check_folder, clear
from softmap.lab.peaks import FILE, tuned_for
from softmap.lab.plan import Candidate, make_plan
from softmap.lab.preflight import preflight, settled
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.trial import Trial, build, fingerprint, fit
from softmap.train import NonFiniteLoss

POINTS = "tuning"  #: folder of a run that keeps the points
TIE = 0.05  #: nats; a seed moves a small model's loss by about as much


class _Point(TypedDict):
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
        windows = tuning_windows(corpus.heldout, recipe)
        search = _Search(shared, windows, folder / POINTS, display)
        sweep(folder, f".{FILE}.[0-9]*.tmp")
        sweep(search.folder)
        labels = [_name(c, peak) for c in plan.candidates for peak in recipe.tuning.grid]
        batch = short.training.batch_size * short.model.context
        display.plan(labels, 1, short.training.steps, batch)
        points = {candidate.spec: search.losses(candidate) for candidate in plan.candidates}
        path = folder / FILE
        files.write_json(path, _facts(points, search, recipe, request))
    for warning in edge_warnings(points, recipe.tuning.grid):
        display.note(warning)
    return path


def _clear(folder: Path) -> None:
    """Forget the peaks and points of an earlier tuning, and the trials that followed it."""
    clear(folder)
    (folder / FILE).unlink(missing_ok=True)
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
            f"found {len(every)} in all: lower evaluation.windows or raise data.heldout"
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
    variants = [dataclasses.replace(entry, peak_lr=None) for entry in recipe.variants]
    return dataclasses.replace(
        recipe, training=training, variants=variants, seeds=[recipe.tuning.seed],
        tuning=dataclasses.replace(recipe.tuning, seed=0 if recipe.tuning.seed else 1),
    )  # fmt: skip


@dataclass(frozen=True)
class _Search:
    """What all points share; ``folder`` keeps a folder for each."""

    shared: Bench
    windows: np.ndarray
    folder: Path
    display: Display

    def losses(self, candidate: Candidate) -> dict[str, float | None]:
        """The loss of one variant at each peak of the grid; None where it diverged."""
        grid = self.shared.recipe.tuning.grid
        return {
            repr(peak): self.point(dataclasses.replace(candidate, peak_lr=peak)) for peak in grid
        }

    def point(self, candidate: Candidate) -> float | None:
        """The loss at one peak: from the file of an earlier call, or by training."""
        seed, name = self.shared.recipe.seeds[0], _name(candidate, candidate.peak_lr)
        trial = Trial(candidate, seed, self.folder)
        identity = {**trial.identity(self.shared), "windows": len(self.windows)}
        trial = dataclasses.replace(
            trial, folder=self.folder / f"{candidate.slug}-{fingerprint(identity)}"
        )
        found = files.read_json(trial.folder / "point.json")
        skipped = found is not None
        if found is None:
            self.display.start(name, seed)
            found = {"loss": self._train(trial, name)}
            files.write_json(trial.folder / "point.json", found)
        check(str(trial.folder / "point.json"), found, _Point)
        shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
        loss: float | None = found.get("loss")
        self.display.finish(name, seed, math.nan if loss is None else loss, skipped=skipped)
        return loss

    def _train(self, trial: Trial, name: str) -> float | None:
        recipe = self.shared.recipe
        model = build(trial.candidate, trial.seed, self.shared.device)
        on_step = functools.partial(self.display.step, name, trial.seed)
        try:
            fit(
                model, trial.candidate, recipe, self.shared.corpus.train, trial.seed, trial.folder,
                on_step=on_step,
            )  # fmt: skip
        except NonFiniteLoss as error:
            self.display.note(str(error))
            return None
        batch = recipe.evaluation.batch_size
        loss, _ = mean_and_stderr(token_losses(model, self.windows, batch_size=batch))
        return loss if math.isfinite(loss) else None


def _name(candidate: Candidate, peak: float) -> str:
    return f"{candidate.label} at {peak:g}"


def _facts(
    points: dict[str, dict[str, float | None]], search: _Search, recipe: Recipe, request: Request
) -> dict[str, Any]:
    """The file of peaks: the choice, every point, and what is needed to repeat it."""
    return {
        "peaks": {
            name: {"peak_lr": best_peak(name, losses), "losses": losses}
            for name, losses in points.items()
        },
        "command": request.command,
        "softmap_version": softmap.__version__,
        **measure.provenance(search.shared.device),
        "seed": search.shared.recipe.seeds[0],
        "windows": len(search.windows),
        "tuned_for": tuned_for(recipe),
        "settings": search.shared.settings,
    }
