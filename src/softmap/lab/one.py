"""``softmap train``: one model of a recipe, trained as a comparison trains it.

Its folder is that of one trial (``softmap.lab.trial``): ``train.jsonl`` and checkpoints while it
trains, what was measured where decays end, and ``model/``. The same call goes on with it.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files import sweep
from softmap.lab import bench, files
from softmap.lab.folder import refuse_other
from softmap.lab.names import check_name, check_path, is_run
from softmap.lab.peaks import find_peaks
from softmap.lab.plan import make_plan, slug
from softmap.lab.preflight import preflight, settled
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe, with_variants
from softmap.lab.sections import Seed
from softmap.lab.trial import Trial, run_trial


@dataclass(frozen=True)
class Wanted:
    """Which model of a recipe, and where it is kept.

    variant: by default the recipe's control. seed: by default the recipe's first. out: the folder
    of all runs. name: of the folder in it that takes VARIANT/seedN. fresh: throw away what lies there.
    """

    variant: str | None = None
    seed: int | None = None
    out: Path = Path("runs")
    name: str | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        check_path("out", self.out)
        check("seed", self.seed, Seed | None)
        if self.name is not None:
            check_name("--name", self.name)


def train_one(recipe: Recipe, wanted: Wanted, display: Display | None = None) -> Path:
    """Train it, or go on with it; returns the folder of the model.

    Raises ``SoftmapError`` for bad input before anything is trained, and where the training
    diverged; ``Interrupted`` after Ctrl-C or SIGTERM, when all that was done is on disk.
    """
    display = display or Display()
    recipe = settled(_of_one(recipe, wanted.variant))
    seed = recipe.seeds[0] if wanted.seed is None else wanted.seed
    peaks = find_peaks(recipe)
    preflight(recipe, display.note, peaks)
    label = recipe.variants[-1].label or recipe.variants[-1].variant
    folder = wanted.out / (wanted.name or f"{recipe.name}-trained") / slug(label) / f"seed{seed}"
    if is_run(folder.parents[1]):
        raise SoftmapError(
            f"{folder.parents[1]}: expected no run of several trainings there; take another --name"
        )
    with display, files.lock(folder):
        _check_folder(folder, fresh=wanted.fresh)
        corpus = bench.corpus(recipe, wanted.out, display)
        plan = make_plan(recipe, corpus.tokenizer.vocab_size, peaks)
        shared = bench.make(recipe, plan, corpus)
        trial = Trial(plan.candidates[-1], seed, folder)
        result = trial.result()
        refuse_other(folder, files.read_json(folder / "trial.json"), trial.identity(shared))
        given = recipe.training
        display.plan({trial.candidate.label: 1}, given.steps, given.batch_size * recipe.model.context)
        display.note(shared.described(trial.candidate, plan))
        if result is None:
            display.start(trial.candidate.label, seed)
            result = run_trial(trial, shared, partial(display.step, trial.candidate.label, seed))
        _finish(trial, result, display)
    return folder / "model"


def _of_one(recipe: Recipe, variant: str | None) -> Recipe:
    """The recipe with the wanted variant last, and the control, by whose size it is sized."""
    control = recipe.control or recipe.variants[0].label or recipe.variants[0].variant
    return with_variants(recipe, [variant or control])


def _check_folder(folder: Path, *, fresh: bool) -> None:
    """A folder with anything else in it is not written to."""
    sweep(folder)
    strange = [path.name for path in folder.iterdir() if path.name != ".lock"]
    if strange and not os.path.lexists(folder / "trial.json"):
        raise SoftmapError(
            f"{folder}: expected a training or an empty folder, found {min(strange)!r}; take "
            "another --name"
        )
    for path in [folder / name for name in strange] if fresh else []:
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
    display.finish(trial.candidate.label, trial.seed, loss)
