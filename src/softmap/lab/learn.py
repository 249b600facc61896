"""``softmap learn``: trains small models on a task, and asks them for instances they never saw.

For each variant there is one training at each peak learning rate, with a separate seed; the peak
with the least loss on validation instances is chosen; with it there is one training for each seed.
All models have one size and the same batches. They are then asked as ``softmap eval`` asks any:
replicates, intervals, a page.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from softmap.data import order
from softmap.errors import SoftmapError, nearest_or_all
from softmap.evals import points
from softmap.evals.catalogue import names, suite
from softmap.evals.subject import Subject
from softmap.evals.tasks import IGNORED, Task, scores
from softmap.evals.token_suite import HELD_OUT, TokenSuite
from softmap.lab import files
from softmap.lab import recipe as recipes
from softmap.lab.asking.run import EvalRequest, ask
from softmap.lab.cluster import Cluster
from softmap.lab.engine import Engine
from softmap.lab.interrupts import Interrupted
from softmap.lab.jobs import best_peaks, earlier_outcome, run_all
from softmap.lab.names import is_run
from softmap.lab.peaks import Peaks
from softmap.lab.plan import PlannedModel, make_plan, training_options
from softmap.lab.preflight import refuse_textual
from softmap.lab.progress import Display, OnStep
from softmap.lab.recipe import Recipe
from softmap.lab.trial import build, fingerprint
from softmap.lab.workers import cores
from softmap.train import NonFiniteLoss, train

TUNING_SEED = 1000  #: the seed of trainings that choose a peak; results do not use it
VALIDATION = HELD_OUT // 2  #: the step whose batch compares the peaks

RECIPE = """\
model: {hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, context: 128}
training: {steps: 1500, batch_size: 32, schedule: wsd, budgets: [1], decay_fraction: 0.2,
  warmup: 0.05, precision: fp32, device: cpu}
variants: [transformer++]
"""


@dataclass(frozen=True)
class LearnRequest:
    """The command's values: which variants learn which task."""

    task: str
    variants: Sequence[str] = ()
    seeds: int = 3
    peaks: Sequence[float] = (1e-3, 3e-3, 1e-2)
    steps: int | None = None
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    jobs: int | None = None
    quick: bool = False
    command: str | None = None
    cluster: Cluster | None = None

    @property
    def engine(self) -> Engine:
        """Where the trainings run."""
        places = self.cluster.slots(gpus=False) if self.cluster else 0
        return Engine(places or self.jobs or cores(), self.cluster)


@dataclass(frozen=True, eq=False)
class LearnJob:
    """A training of one variant with one seed at one peak."""

    task: str
    recipe: Recipe
    planned: PlannedModel
    seed: int
    folder: Path

    @property
    def label(self) -> str:
        """The variant's label."""
        return self.planned.label

    @property
    def peak_lr(self) -> float:
        """The peak learning rate."""
        return self.planned.peak_lr

    @property
    def name(self) -> str:
        """The job's name in messages."""
        return f"{self.task}: {self.label} seed {self.seed} at {self.peak_lr:g}"

    def identity(self) -> dict[str, Any]:
        """Returns everything that the result depends on, in JSON's types."""
        model, mine = dataclasses.asdict(self.recipe.model), self.planned
        training = self.recipe.training.settings()
        if not training["keep_points"]:  # older results do not have it
            del training["keep_points"]
        found = {
            "task": self.task, "variant": mine.spec, "peak_lr": mine.peak_lr, "seed": self.seed,
            "intermediate_size": mine.config.intermediate_size,
            "model": model, "training": training,
        }  # fmt: skip
        return dict(json.loads(json.dumps(found, default=str)))

    def result(self) -> dict[str, Any] | None:
        """Returns the outcome of an earlier call, or None."""
        return earlier_outcome(self.folder / "learned.json", self.identity())


def learnable() -> list[str]:
    """Returns the suites whose tasks a model can be trained on."""
    return [name for name in names() if isinstance(suite(name), TokenSuite)]


def task_suite(name: str) -> TokenSuite:
    """Returns the suite of a task; ``shots`` means ``token_shots``, and so on.

    Raises ``SoftmapError`` for a task that cannot be learned.
    """
    known = learnable()
    short = [one for one in known if one == f"token_{name}"]
    if name not in known and not short:
        raise SoftmapError(f"learn: no task {name!r}{nearest_or_all(name, known)}")
    found = suite(short[0] if short else name)
    assert isinstance(found, TokenSuite)
    return found


def learn(request: LearnRequest, folder: Path, display: Display | None = None) -> dict[str, Any]:
    """Train the models and ask them.

    Returns what [`softmap.lab.asking.run.ask`][] does, with the peaks. ``folder`` keeps each
    training: finished ones are not repeated, interrupted ones are continued. Raises
    ``SoftmapError`` for bad input before anything is trained, ``Interrupted`` after Ctrl-C.
    """
    display = display or Display()
    request = dataclasses.replace(request, task=task_suite(request.task).name)
    recipe, vocabulary = recipe_of(request)
    plan = make_plan(recipe, vocabulary, Peaks())
    if is_run(folder):
        raise SoftmapError(f"{folder}: expected a separate folder, found a run; use another --name")
    with files.lock(folder), display:
        request.engine.check(folder, display.note)
        given = recipe.training
        display.plan({}, given.steps, given.batch_size * recipe.model.context)
        tuning = [
            _job(request, recipe, planned, peak, TUNING_SEED, folder)
            for planned in plan.models
            for peak in request.peaks
        ]
        tried = _run(tuning if len(request.peaks) > 1 else [], request, folder, display)
        chosen = best_peaks(tuning, tried, display.note)
        trials = [
            _job(request, recipe, planned, chosen[planned.label], seed, folder)
            for planned in plan.models
            for seed in range(request.seeds)
        ]
        out = _run(trials, request, folder, display)
        lived = [job for job in trials if out[job]["loss"] is not None]
    if not lived:
        raise SoftmapError("learn: every training diverged; lower --peaks may help")
    words = [f"{job.planned.label}={job.folder / 'model'}" for job in trials if job in lived]
    asked = EvalRequest(
        words, [request.task], quick=request.quick, context=10**4, command=request.command
    )
    return ask(asked, display.note) | {"peaks": chosen, "diverged": len(trials) - len(lived)}


def recipe_of(request: LearnRequest) -> tuple[Recipe, int]:
    """Returns the recipe of a request, and the task's vocabulary.

    Raises ``SoftmapError`` for a task that cannot be learned and for bad values.
    """
    suite = task_suite(request.task)
    mixture = suite.mixture()
    context = max(task.length for task in mixture)
    given = {"model.context": str(context), **suite.training, **request.settings}
    if request.steps is not None:
        given["training.steps"] = str(request.steps)
    recipe = recipes.parse(RECIPE, Path("learn"), given)
    refuse_textual(recipe, "learn")
    return recipes.with_variants(recipe, list(request.variants)), mixture[0].vocabulary


def _job(
    request: LearnRequest,
    recipe: Recipe,
    planned: PlannedModel,
    peak: float,
    seed: int,
    folder: Path,
) -> LearnJob:
    mine = dataclasses.replace(planned, peak_lr=peak)
    training_options(recipe, peak, seed, planned.label)  # refuses what cannot be trained
    made = LearnJob(request.task, recipe, mine, seed, folder)
    # Other settings have another folder, so earlier trainings stay as they are.
    name = f"{peak:g}-seed{seed}-{fingerprint(made.identity())[:8]}"
    return dataclasses.replace(made, folder=folder / planned.slug / name)


def _run(
    jobs: Sequence[LearnJob], request: LearnRequest, folder: Path, display: Display
) -> dict[LearnJob, dict[str, Any]]:
    return run_all(jobs, run_job, request.engine, display, folder, words=_words)


def _words(out: dict[str, Any]) -> str:
    return f"{out['right']:.1%} right"


def run_job(job: LearnJob, on_step: OnStep = lambda _: None) -> dict[str, Any]:
    """Train one model on the task's mixture and keep it.

    Returns its loss and share of right answers on validation instances; the loss is None if it
    diverged.
    """
    logging.disable_progress_bar()
    mixture = task_suite(job.task).mixture()
    given = training_options(job.recipe, job.planned.peak_lr, job.seed, job.name)
    given = dataclasses.replace(given, run=f"{job.task} {job.planned.spec}")
    model = build(job.planned, job.seed, torch.device("cpu"))

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return batch(mixture, job.seed, step, given.batch_size, given.context)

    try:
        state = train(model, batches, given, job.folder, on_step=on_step, **_points(job))
    except NonFiniteLoss:
        return _record(job, {"loss": None, "right": None})
    if not state.finished:
        raise Interrupted(state.signal or 2)
    subject = Subject(model.eval(), name=job.name)
    ids, labels = batch(mixture, TUNING_SEED, VALIDATION, 4 * given.batch_size, given.context)
    found = np.array(list(scores(subject, ids.numpy(), labels.numpy())))
    files.write_folder(job.folder / "model", model.save_pretrained)
    return _record(job, {"right": float(found[:, 0].mean()), "loss": float(found[:, 1].mean())})


def _points(job: LearnJob) -> dict[str, Any]:
    """Returns the callbacks that keep the weights around each decay, if the recipe wants them."""
    if not job.recipe.training.keep_points:
        return {}
    folder = job.folder / points.FOLDER
    return {
        "on_decay": lambda index, model: points.keep(model, folder, index, points.BEFORE),
        "on_budget": lambda index, _, model: points.keep(model, folder, index, points.AFTER),
    }


def _record(job: LearnJob, out: dict[str, Any]) -> dict[str, Any]:
    files.write_json(job.folder / "learned.json", out | {"identity": job.identity()}, seal=False)
    return out


def batch(
    mixture: Sequence[Task], seed: int, step: int, size: int, context: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (ids, labels), both (size, context + 1): the mixture's tasks in turn, padded.

    Padding is not asked. A pure function of its arguments.
    """
    ids = torch.zeros(size, context + 1, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    generator = order.generator(seed, step)
    for row in range(size):
        tokens, wanted = mixture[(step * size + row) % len(mixture)].sample(generator)
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
        labels[row, : len(tokens)] = torch.from_numpy(wanted)
    return ids, labels
