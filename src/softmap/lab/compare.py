"""A whole comparison: every variant on the same batches, and the page that says what came out.

What is finished is never done again: each trial leaves ``result.json`` last, and one that was
interrupted goes on from its checkpoint. A run's folder belongs to one recipe and to one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from softmap import report
from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files import sweep
from softmap.lab import bench, files, workers
from softmap.lab.bench import Bench
from softmap.lab.explain import chosen
from softmap.lab.facts import run_facts
from softmap.lab.folder import check_folder, check_same, clear
from softmap.lab.names import check_path
from softmap.lab.peaks import Peaks, find_peaks
from softmap.lab.plan import Plan, make_plan
from softmap.lab.preflight import least_memory, preflight, settled
from softmap.lab.progress import Display
from softmap.lab.recipe import PEAKS, Recipe
from softmap.lab.schedule import Task, results
from softmap.lab.sections import Count
from softmap.lab.speed import measure_speed
from softmap.lab.trial import Trial, run_trial
from softmap.report.words import runs_a_variant


@dataclass(frozen=True)
class Request:
    """How a comparison is run, beside what its recipe says.

    out: the folder of all runs. command: what the user typed, for the page. fresh: throw away what
    an earlier run of the same name left. jobs: trials at once, each in a process of one thread; 1
    trains them one after another in this process; None takes as many as there are cores, or GPUs.
    speed: measure speed and memory apart from training, when all is trained.
    """

    out: Path = Path("runs")
    command: str = "softmap compare"
    fresh: bool = False
    jobs: int | None = 1
    speed: bool = False

    def __post_init__(self) -> None:
        check_path("out", self.out)
        check("jobs", self.jobs, Count | None)


def compare(recipe: Recipe, request: Request, display: Display | None = None) -> Path:
    """Run a recipe, or go on with it; returns the page's path.

    Raises ``SoftmapError`` for bad input before anything is trained; ``Interrupted`` after Ctrl-C
    or SIGTERM, when everything done so far is on disk and the page shows it.
    """
    display = display or Display()
    recipe, folder = settled(recipe), request.out / recipe.name
    peaks = find_peaks(recipe, folder)
    preflight(recipe, display.note, peaks)
    with display, files.lock(folder):
        check_folder(folder)
        sweep(folder)
        corpus = bench.corpus(recipe, request.out, display)
        plan = make_plan(recipe, corpus.tokenizer.vocab_size, peaks)
        shared = bench.make(recipe, plan, corpus)
        trials = _trials(plan, folder)
        if request.fresh:
            clear(folder)
        check_same(folder, trials, shared)
        _announce(plan, shared, peaks, display)
        _keep(peaks, folder)
        request = with_jobs(request, plan, shared)
        facts = run_facts(folder, plan, shared, peaks, request.command, request.jobs or 1)
        files.write_json(folder / "run.json", facts)
        page = _Page(folder, display)
        with page:
            _run_all(_waiting(trials, display), shared, page, request)
            if request.speed:
                measure_speed(folder, plan, shared, request.jobs or 1, display)
                page.changed()  # it may have been drawn with the speeds of the training
        return page.path


def with_jobs(request: Request, plan: Plan, shared: Bench) -> Request:
    """The request with its number of jobs, by default as many as suit this machine."""
    if request.jobs is not None:
        return request
    needed = max(least_memory(candidate, shared.recipe) for candidate in plan.candidates)
    return dataclasses.replace(request, jobs=workers.default_jobs(shared.device, needed))


def _waiting(trials: list[Trial], display: Display) -> list[Trial]:
    """Those that have no result yet; the others are finished."""
    found = [(trial, trial.result()) for trial in trials]
    for trial, result in found:
        if result is not None:
            _finish(trial, result, display, skipped=True)
    return [trial for trial, result in found if result is None]


def _finish(
    trial: Trial, result: dict[str, Any], display: Display, *, skipped: bool = False
) -> None:
    # Also those that a kill left after the result.
    shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
    label, loss = trial.candidate.label, _final_loss(result)
    display.finish(label, trial.seed, loss, skipped=skipped)


def _run_all(trials: list[Trial], shared: Bench, page: _Page, request: Request) -> None:
    """Train the trials; the page is kept up to date."""
    tasks = {Task(t.candidate.label, t.seed, t.folder, partial(run_trial, t)): t for t in trials}
    trained = results(tasks, shared, page.display, request.jobs or 1, request.out)
    with contextlib.closing(trained):
        for task, result in trained:
            _finish(tasks[task], result, page.display)
            page.changed()


class _Page:
    """The run's page, kept up to date without spending a tenth of the time on it.

    It is built when the ``with`` block ends, also by a stop or an error.
    """

    def __init__(self, folder: Path, display: Display) -> None:
        self.folder, self.path, self.display = folder, folder / "report.html", display
        self._stale, self._built, self._seconds = True, -math.inf, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if error is None:
            self.refresh()
        elif isinstance(error, KeyboardInterrupt | SoftmapError):
            with contextlib.suppress(Exception):  # nothing has finished, or this very trouble
                self.refresh()

    def changed(self) -> None:
        """A trial has finished: build the page, if it is not too soon for that."""
        self._stale = True
        if time.monotonic() - self._built < 10 * self._seconds:
            return
        try:
            self.refresh()
        except Exception as error:  # hours of training do not end for a drawing
            self.display.note(f"the page could not be built yet: {error}")

    def refresh(self) -> None:
        """Build the page, if anything has changed."""
        if self._stale:
            began = time.monotonic()
            self.path = report.build(self.folder)
            self._stale, self._built = False, time.monotonic()
            self._seconds = self._built - began


def _final_loss(result: dict[str, Any]) -> float:
    """Of the last budget; NaN for a training that diverged."""
    budgets = result["budgets"]
    return float(budgets[-1]["loss"]) if budgets else math.nan


def _trials(plan: Plan, folder: Path) -> list[Trial]:
    """One of each variant, then the second, so that all have been seen as early as possible."""
    rounds = zip_longest(*(candidate.seeds for candidate in plan.candidates))
    return [
        Trial(candidate, seed, folder / "variants" / candidate.slug / f"seed{seed}")
        for seeds in rounds
        for candidate, seed in zip(plan.candidates, seeds, strict=True)
        if seed is not None
    ]


def _keep(peaks: Peaks, folder: Path) -> None:
    """A run that uses a file of tuned peaks keeps it, and so can go on without its recipe."""
    if peaks.path is not None and peaks.path != folder / PEAKS:
        files.write_json(folder / PEAKS, files.read_json(peaks.path))


def _announce(plan: Plan, shared: Bench, peaks: Peaks, display: Display) -> None:
    training, context = shared.recipe.training, shared.recipe.model.context
    runs = {candidate.label: len(candidate.seeds) for candidate in plan.candidates}
    display.plan(runs, training.steps, training.batch_size * context)
    if sum(runs.values()) > len(runs):
        display.note(f"{runs_a_variant(runs, plan.control)}, {sum(runs.values())} in all")
    for sentence in peaks.unused:
        display.note(sentence)
    for candidate in plan.candidates:
        total = candidate.parameters["total"]
        off = 100 * (total / plan.target - 1)
        display.note(
            f"{candidate.label}: {total:,} parameters ({off:+.2f} %), MLP width "
            f"{candidate.config.intermediate_size}, peak {candidate.peak_lr:g} "
            f"({candidate.peak_source}), {chosen(candidate.config, context, shared.device)}"
        )
