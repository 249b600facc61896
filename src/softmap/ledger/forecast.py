"""How many trainings a list of claims needs, and about how long they take."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

from softmap.claims._bases import Base
from softmap.claims._claim import Claim, Grafted, Learned, Study, Timed
from softmap.lab.costs import EVALUATED
from softmap.lab.grafting.preparation import recipe_of as recipe_of_graft
from softmap.lab.learn import recipe_of
from softmap.lab.plan import PlannedModel, make_plan
from softmap.lab.preflight import choose_device, vocabulary
from softmap.lab.progress import duration
from softmap.lab.recipe import Recipe
from softmap.lab.speed import timed, training_step
from softmap.lab.trial import build
from softmap.ledger import grafted, learned
from softmap.ledger.run import stages
from softmap.ledger.trained import needed
from softmap.ledger.training import missing, results
from softmap.ledger.workspace import Workspace

LARGE = 1e11  #: operations of a step above which none is tried
SPEED = 3e10  #: operations per second of one core
PROCESS = 60.0  #: seconds that a measurement of speed takes, about
SHARED = 0.7  #: the share of its speed that a core keeps when all are busy


def forecast(
    claims: Sequence[Claim], scale: str, workspace: Workspace, jobs: int, only: Sequence[str] = ()
) -> list[str]:
    """Returns a line for each base, task, graft and measurement of speed, and a last one with
    the sum.
    """
    studies = [s for claim in claims for _, some in stages(claim, scale, only) for s in some]
    parts = (_bases, _tasks, _grafts, _speeds)
    found = [one for part in parts for one in part(studies, workspace)]
    lines = [
        f"{name}: {number} to do, about {duration(seconds)}" for name, number, seconds in found
    ]
    number, seconds = sum(one[1] for one in found), sum(one[2] for one in found)
    beside = f", {jobs} at a time" if jobs > 1 else ""
    whole = duration(seconds / (1 + SHARED * (jobs - 1)))
    return [*lines, f"{len(claims)} claims, {number} trainings, about {whole}{beside}"]


Amount = tuple[str, int, float]
"""(name, number of trainings, seconds of all of them)"""


def _bases(studies: Sequence[Study], workspace: Workspace) -> Iterator[Amount]:
    wanted: dict[str, tuple[Base, dict[str, int]]] = {}
    for study in studies:
        if study.reads_bases:
            for base, runs in needed(study, workspace):
                _, most = wanted.setdefault(base.name, (base, {}))
                most |= {name: max(n, most.get(name, 0)) for name, n in runs.items()}
    for base, runs in wanted.values():
        number = len(missing(workspace, base, runs))
        yield base.name, number, number * _run_seconds(workspace, base, runs) if number else 0.0


def _run_seconds(workspace: Workspace, base: Base, runs: dict[str, int]) -> float:
    """Returns the seconds of finished runs, else those that one step predicts."""
    took = [
        float(one["whole_seconds"])
        for name, number in runs.items()
        for one in results(workspace, base, name, number).values()
        if one.get("whole_seconds")
    ]
    return median(took) if took else _by_a_step(workspace.recipe(base, {}))


def _by_a_step(recipe: Recipe) -> float:
    """Returns the seconds of a run of the control, including its evaluations, by one step."""
    planned = make_plan(recipe, vocabulary(recipe)).models[0]
    heldout = recipe.evaluation.windows * len(recipe.training.budget_steps())
    windows = recipe.training.steps * recipe.training.batch_size + EVALUATED * heldout
    return _step(planned, recipe) * windows / recipe.training.batch_size


def _step(planned: PlannedModel, recipe: Recipe) -> float:
    """Returns the seconds of a step; for a large one on a CPU they follow from its operations."""
    given, device = recipe.training, choose_device(recipe.training.device)
    tokens = given.batch_size * recipe.model.context
    flops = tokens * float(planned.costs(recipe.model.context)["flops_per_token"])
    if device.type == "cpu" and flops > LARGE:
        return flops / SPEED
    step = training_step(build(planned, 0, device), planned, recipe)
    timed(step, 1, device)
    return timed(step, 2, device) if device.type == "cuda" else _of_one_core(step)


def _of_one_core(step: Callable[[], Any]) -> float:
    """Returns the seconds of a step with one thread where nothing else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.process_time()
    for _ in range(3):
        step()
    torch.set_num_threads(threads)
    return (time.process_time() - began) / 3


def _grafts(studies: Sequence[Study], workspace: Workspace) -> Iterator[Amount]:
    for study in studies:
        if isinstance(study, Grafted):
            number = grafted.missing(study, workspace)
            seconds = number * _graft_seconds(study, workspace) if number else 0.0
            yield grafted.folder(study, workspace).name, number, seconds


def _graft_seconds(study: Grafted, workspace: Workspace) -> float:
    """Returns the seconds of one fine-tuning, by a step of the base's control."""
    base = workspace.recipe(study.base, {})
    tuned = recipe_of_graft(grafted.settings(study, workspace), base.model.context).training
    training = dataclasses.replace(base.training, batch_size=tuned.batch_size)
    recipe = dataclasses.replace(base, training=training)
    return tuned.steps * _step(make_plan(recipe, vocabulary(recipe)).models[0], recipe)


def _tasks(studies: Sequence[Study], workspace: Workspace) -> Iterator[Amount]:
    requests = [
        learned.request(study, workspace) for study in studies if isinstance(study, Learned)
    ]
    for given, folder in requests:
        recipe, vocabulary = recipe_of(given)
        plan = make_plan(recipe, vocabulary)
        every = len(plan.models) * (len(given.peaks) + given.seeds)
        kept = sum(len(list((folder / c.slug).glob("*/learned.json"))) for c in plan.models)
        number = max(0, every - kept)
        seconds = recipe.training.steps * _step(plan.models[0], recipe) if number else 0.0
        yield folder.name, number, number * seconds


def _speeds(studies: Sequence[Study], workspace: Workspace) -> Iterator[Amount]:
    number = workspace.seeds * sum(isinstance(study, Timed) for study in studies)
    if number:
        yield "speed", number, number * PROCESS
