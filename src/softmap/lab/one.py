"""``softmap train``: one model of a recipe, trained as in a comparison.

Its folder is that of one trial (``softmap.lab.trial``): ``train.jsonl`` and checkpoints while it
trains, what was measured at the end of each decay, and ``model/``. The same call continues it.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import softmap
from softmap.data import Corpus
from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files import sweep
from softmap.lab import files, workbench
from softmap.lab.folder import refuse_other
from softmap.lab.names import check_name, check_path, is_run
from softmap.lab.peaks import Peaks, find_peaks
from softmap.lab.plan import Plan, make_plan, slug
from softmap.lab.preflight import choose_device, preflight, with_precision
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe, dump, with_variants
from softmap.lab.sections import Seed
from softmap.lab.trial import Trial, run_trial
from softmap.lab.workbench import Workbench
from softmap.train import Parallel
from softmap.train.processes import processes, ranks


@dataclass(frozen=True)
class TrainRequest:
    """Which model of a recipe is trained, and where it is kept.

    Attributes:
        variant: by default the recipe's control.
        seed: by default the recipe's first.
        out: the folder of all runs.
        name: the folder in it for VARIANT/seedN.
        fresh: delete what is there.
        profile: trace a few steps, to the folder ``profile`` beside the model.
    """

    variant: str | None = None
    seed: int | None = None
    out: Path = Path("runs")
    name: str | None = None
    fresh: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        check_path("out", self.out)
        check("seed", self.seed, Seed | None)
        if self.name is not None:
            check_name("--name", self.name)


def train_one(recipe: Recipe, request: TrainRequest, display: Display | None = None) -> Path:
    """Train the model, or continue its training; returns its folder.

    Under torchrun every process calls this with the same arguments, and the first one writes.
    Raises ``SoftmapError`` for bad input before anything is trained, where the training diverged,
    and where a process is lost; ``Interrupted`` after Ctrl-C or SIGTERM, when everything done so
    far is on disk.
    """
    display = display or Display()
    recipe = with_precision(of_one(recipe, request.variant))
    recipe.parallel.check(ranks(), recipe.training.batch_size, recipe.model.context)
    peaks = find_peaks(recipe)
    preflight(recipe, display.note, peaks, ranks())
    device = choose_device(recipe.training.device)
    with processes(recipe.parallel, device, _facts(recipe)) as parallel, ExitStack() as held:
        held.enter_context(display)
        work = _Work(recipe, request, peaks, parallel, display)
        parallel.by_first(lambda: work.take(held))
        return work.train()


@dataclass
class _Work:
    """One call, on one of its processes."""

    recipe: Recipe
    request: TrainRequest
    peaks: Peaks
    parallel: Parallel
    display: Display

    @property
    def seed(self) -> int:
        return self.recipe.seeds[0] if self.request.seed is None else self.request.seed

    @property
    def folder(self) -> Path:
        entry = self.recipe.variants[-1]
        name = self.request.name or f"{self.recipe.name}-trained"
        return self.request.out / name / slug(entry.label or entry.variant) / f"seed{self.seed}"

    def take(self, held: ExitStack) -> None:
        """Lock the folder; one with other contents is refused."""
        folder, run = self.folder, self.folder.parents[1]
        if is_run(run):
            raise SoftmapError(
                f"{run}: expected no run of several trainings there; use another --name"
            )
        held.enter_context(files.lock(folder))
        sweep(folder)
        there = sorted(path.name for path in folder.iterdir() if path.name != ".lock")
        if there and not os.path.lexists(folder / "trial.json"):
            raise SoftmapError(
                f"{folder}: expected a training or an empty folder, found {there[0]!r}; use "
                "another --name"
            )
        if self.request.fresh:
            _clear(folder, there)

    def train(self) -> Path:
        """Returns the folder of the trained model."""
        corpus = self._corpus()
        plan = make_plan(self.recipe, corpus.tokenizer.vocab_size, self.peaks)
        plan = replace(plan, models=plan.models[-1:])  # the control only sets the size
        shared = workbench.make(self.recipe, plan, corpus)
        trial = Trial(plan.models[-1], self.seed, self.folder)
        self._describe(trial, plan, shared)
        result = self.parallel.by_first(lambda: _earlier(trial, shared))
        if result is None:
            self.display.start(trial.planned.label, self.seed)
            on_step = partial(self.display.step, trial.planned.label, self.seed)
            result = run_trial(trial, shared, on_step, self.parallel, self.request.profile)
        self.parallel.by_first(lambda: _finish(trial, result, self.display))
        return self.folder / "model"

    def _corpus(self) -> Corpus:
        """Returns the text as tokens: made by the first process, read by the others."""

        def make() -> Corpus:
            return workbench.corpus(self.recipe, self.request.out, self.display)

        made: list[Corpus] = []
        self.parallel.by_first(lambda: made.append(make()))
        return made[0] if made else make()

    def _describe(self, trial: Trial, plan: Plan, shared: Workbench) -> None:
        given, context = self.recipe.training, self.recipe.model.context
        label = trial.planned.label
        self.display.plan({label: 1}, given.steps, given.batch_size * context)
        self.display.note(shared.described(trial.planned, plan))
        if self.parallel.ranks > 1:
            self.display.note(self.recipe.parallel.described(self.parallel.ranks))


def _facts(recipe: Recipe) -> dict[str, str]:
    """Returns what all processes must agree on."""
    plain = hashlib.sha256(dump(recipe).encode()).hexdigest()[:16]
    return {"softmap": softmap.__version__, "torch": torch.__version__, "recipe": plain}


def _earlier(trial: Trial, shared: Workbench) -> dict[str, Any] | None:
    """Returns the result of an earlier call; refuses a folder with another training."""
    begun = files.read_json(trial.folder / "trial.json")
    refuse_other(trial.folder, begun, trial.identity(shared))
    return trial.result()


def of_one(recipe: Recipe, variant: str | None) -> Recipe:
    """Returns the recipe with the request variant last, and the control, which sets its size."""
    control = recipe.control or recipe.variants[0].label or recipe.variants[0].variant
    return with_variants(recipe, [variant or control])


def _clear(folder: Path, names: list[str]) -> None:
    for path in [folder / name for name in names]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _finish(trial: Trial, result: dict[str, Any], display: Display) -> None:
    shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
    if "diverged" in result:
        found = result["diverged"]
        raise SoftmapError(
            f"{trial.name}: the training diverged at step {found['step']} ({found['reason']}); a "
            "lower training.peak_lr may help, with --fresh"
        )
    loss = float(result["budgets"][-1]["loss"]) if result["budgets"] else math.nan
    display.finish(trial.planned.label, trial.seed, loss)
