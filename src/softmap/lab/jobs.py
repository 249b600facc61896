"""Trainings that are kept: each once, in a process of its own, and the best peak of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from softmap.errors import SoftmapError
from softmap.files.sealed import read_object
from softmap.lab.workers import Workers

Tell = Callable[[str], None]
Outcome = dict[str, Any]  #: with ``loss``, None where the training diverged


class Job(Protocol):
    """One training: of a label, at a peak, in a folder that keeps what comes out."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def peak_lr(self) -> float: ...
    def result(self) -> Outcome | None: ...


J = TypeVar("J", bound=Job)


def kept(path: Path, identity: Mapping[str, Any]) -> Outcome | None:
    """What a finished training wrote to ``path``, if it was this one; or None."""
    found = read_object(path) if path.is_file() else None
    return found if found and found.get("identity") == identity else None


def run_all(
    jobs: Sequence[J],
    work: Callable[[J], Outcome],
    count: int,
    told: Callable[[J, Outcome], None],
    device: torch.device | None = None,
) -> dict[J, Outcome]:
    """The outcomes of all: earlier ones as they were, the others by ``work``, ``count`` at once.

    Each in a process of one thread, where several run at once. told: called with each new one.
    Raises ``SoftmapError`` where a process dies.
    """
    found = {job: out for job in jobs if (out := job.result()) is not None}
    waiting = [job for job in jobs if job not in found]
    count = min(count, len(waiting))
    if count <= 1:
        for job in waiting:
            found[job] = work(job)
            told(job, found[job])
        return {job: found[job] for job in jobs}
    with Workers(count, device) as pool:
        futures = {pool.submit(work, job): job for job in waiting}
        for future in as_completed(futures):
            job = futures[future]
            found[job] = outcome(job, future)
            told(job, found[job])
    return {job: found[job] for job in jobs}


def outcome(job: Job, future: Future[Outcome]) -> Outcome:
    """What a process returned. Raises ``SoftmapError`` naming the training where it died."""
    try:
        return future.result()
    except BrokenExecutor as error:
        raise SoftmapError(
            f"{job.name}: its process ended ({error}); the same command goes on from its checkpoint"
        ) from None


def best_peaks(jobs: Sequence[J], outcomes: Mapping[J, Outcome], tell: Tell) -> dict[str, float]:
    """The peak of each label: the only one where nothing was tried, or that with the least loss."""
    found: dict[str, float] = {}
    for label in dict.fromkeys(job.label for job in jobs):
        mine = [job for job in jobs if job.label == label]
        lived = [job for job in mine if not outcomes or outcomes[job]["loss"] is not None]
        if not lived:
            raise SoftmapError(f"{label} diverged at every peak; smaller --peaks may help")
        best = min(lived, key=lambda job: outcomes[job]["loss"]) if outcomes else lived[0]
        found[label] = best.peak_lr
        if outcomes:
            tell(f"{label}: peak {best.peak_lr:g}")
    return found
