"""Trainings that are kept: each once, in a process of its own, and the best peak of several."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from softmap.errors import SoftmapError
from softmap.files.sealed import read_object
from softmap.lab.schedule import last_logged
from softmap.lab.workers import Workers

EVERY = 30.0  #: seconds between two looks at what is being trained
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
    @property
    def folder(self) -> Path: ...
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
    tell: Tell,
    words: Callable[[Outcome], str],
    device: torch.device | None = None,
) -> dict[J, Outcome]:
    """The outcomes of all: earlier ones as they were, the others by ``work``, ``count`` at once.

    Each in a process of one thread, where several run at once. tell: of each new one in ``words``,
    and from time to time of those under way. Raises ``SoftmapError`` where a process dies.
    """
    found = {job: out for job in jobs if (out := job.result()) is not None}
    waiting = [job for job in jobs if job not in found]
    with followed(waiting, tell):
        for job, out in _outcomes(waiting, work, min(count, len(waiting)), device):
            found[job] = out
            tell(f"{job.name}: {words(out)}")
    return {job: found[job] for job in jobs}


def _outcomes(
    jobs: Sequence[J], work: Callable[[J], Outcome], count: int, device: torch.device | None
) -> Iterator[tuple[J, Outcome]]:
    if count <= 1:
        for job in jobs:
            yield job, work(job)
        return
    with Workers(count, device) as pool:
        futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], outcome(futures[future], future)


@contextlib.contextmanager
def followed(jobs: Sequence[Job], tell: Tell) -> Iterator[None]:
    """While the block runs, tell of trainings that go on, by the last lines of their logs."""
    seen = {job.folder: last_logged(job.folder / "train.jsonl") for job in jobs}
    over = threading.Event()

    def look() -> None:
        while not over.wait(EVERY):
            for job in jobs:
                line = last_logged(job.folder / "train.jsonl")
                if line is not None and line != seen[job.folder]:
                    seen[job.folder] = line
                    tell(f"{job.name}: step {line['step']}, loss {line['loss']:.4f}")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
