"""Trainings with kept results: each runs once, on an engine; and the best peak of several."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from softmap.errors import SoftmapError
from softmap.files.sealed import read_object
from softmap.lab.engine import Engine
from softmap.lab.progress import Display, OnStep
from softmap.lab.schedule import TrainingTask, results

Tell = Callable[[str], None]
Outcome = dict[str, Any]  #: has ``loss``, None where the training diverged


class Job(Protocol):
    """A training of a label at a peak, in a folder that keeps the result."""

    @property
    def name(self) -> str:
        """The job's name in messages."""

    @property
    def label(self) -> str:
        """The label, which begins its row of the display."""

    @property
    def peak_lr(self) -> float:
        """The peak learning rate."""

    @property
    def seed(self) -> int:
        """The seed of its random numbers."""

    @property
    def folder(self) -> Path:
        """The folder that it writes to."""

    def result(self) -> Outcome | None:
        """Returns the outcome, None where the job has not finished."""


J = TypeVar("J", bound=Job)


def earlier_outcome(path: Path, identity: Mapping[str, Any]) -> Outcome | None:
    """Returns what a finished training wrote to ``path`` if it was this one, else None."""
    found = read_object(path) if path.is_file() else None
    return found if found and found.get("identity") == identity else None


def run_all(
    jobs: Sequence[J],
    work: Callable[[J, OnStep], Outcome],
    engine: Engine,
    display: Display,
    folder: Path,
    device: torch.device | None = None,
    words: Callable[[Outcome], str] | None = None,
) -> dict[J, Outcome]:
    """Returns the outcomes of all jobs: earlier ones as they were, the others by ``work`` on
    ``engine``.

    Args:
        folder: the folder of all jobs, which this process holds.
        words: describes an outcome beside its loss.

    Raises what a job raises, and ``SoftmapError`` where its process dies repeatedly.
    """
    found = {job: out for job in jobs if (out := job.result()) is not None}
    display.more(Counter(_row(job) for job in jobs))
    for job, out in found.items():
        _finish(job, out, display, skipped=True)
    begun = {job.folder: job for job in jobs if job not in found}
    tasks = [
        TrainingTask(_row(job), job.seed, job.folder, partial(work, job)) for job in begun.values()
    ]
    with contextlib.closing(results(tasks, engine, display, folder, device)) as trained:
        for task, out in trained:
            job = begun[task.folder]
            found[job] = out
            _finish(job, out, display)
            if words is not None and out["loss"] is not None:
                display.note(f"{job.name}: {words(out)}")
    return {job: found[job] for job in jobs}


def _row(job: Job) -> str:
    """Returns the job's row of the display, which the seeds of a label at a peak share."""
    return f"{job.label} at {job.peak_lr:g}"


def _finish(job: Job, out: Outcome, display: Display, *, skipped: bool = False) -> None:
    loss = math.nan if out["loss"] is None else out["loss"]
    display.finish(_row(job), job.seed, loss, skipped=skipped)


def best_peaks(jobs: Sequence[J], outcomes: Mapping[J, Outcome], tell: Tell) -> dict[str, float]:
    """Returns the peak of each label: the only one, or the one with the lowest loss."""
    found: dict[str, float] = {}
    for label in dict.fromkeys(job.label for job in jobs):
        mine = [job for job in jobs if job.label == label]
        lived = [job for job in mine if not outcomes or outcomes[job]["loss"] is not None]
        if not lived:
            raise SoftmapError(f"{label} diverged at every peak; lower --peaks may help")
        best = min(lived, key=lambda job: outcomes[job]["loss"]) if outcomes else lived[0]
        found[label] = best.peak_lr
        if outcomes:
            tell(f"{label}: peak {best.peak_lr:g}")
    return found
