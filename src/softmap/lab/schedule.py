"""Many tasks on a pool of processes: running tasks are followed, those of dead processes continued.

A task writes everything it does to its folder, and ``train.jsonl`` as it goes. Nothing else is
needed to follow it, so any pool works whose processes see the folder.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from softmap.errors import SoftmapError
from softmap.lab.engine import Engine
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.progress import Display, OnStep
from softmap.lab.roster import Roster, holding, last_logged
from softmap.lab.workers import Pool
from softmap.train.checkpoint import reached

TRIES = 3  #: processes of one task that may die without progress
DIED = f"died {TRIES} times at the same point"
LOOK = 0.25  #: seconds between two looks at running tasks


@dataclass(frozen=True)
class TrainingTask:
    """One training: a trial, a point of a tuning, a training of ``learn`` or ``graft``.

    Attributes:
        label, seed: its place in the display.
        work: called with a callback for logged steps, it writes to ``folder`` and returns the
            result; picklable.
    """

    label: str
    seed: int
    folder: Path
    work: Callable[[OnStep], dict[str, Any]] = field(compare=False)

    @property
    def name(self) -> str:
        """The task's name in messages."""
        return f"{self.label} seed {self.seed}"


Results = Generator[tuple[TrainingTask, dict[str, Any]], None, None]


def results(
    tasks: Iterable[TrainingTask],
    engine: Engine,
    display: Display,
    folder: Path,
    device: torch.device | None = None,
) -> Results:
    """Train the tasks; yields each with its result, as they end.

    Close the generator: that returns when all processes have ended, stopped with a checkpoint where
    they were not done. Raises what a task raises, and ``Interrupted``.

    Args:
        tasks: the next one is asked for when there is a worker for it.
        folder: the folder of all tasks, which this process holds; ``trials.json`` in it has their
            state.
    """
    roster = Roster(folder, tasks, display.steps)
    if engine.here:
        yield from _here(roster, display)
        return
    with sigterm_raises(), engine.pool(folder, device, display.note) as pool:
        yield from completed(pool, roster, display)


def _here(roster: Roster, display: Display) -> Results:
    for task in roster:
        display.start(task.label, task.seed)
        found = done(task, functools.partial(display.step, task.label, task.seed))
        roster.end(task)
        yield task, found


def done(task: TrainingTask, on_step: OnStep = lambda _: None) -> dict[str, Any]:
    """Returns the result of a task, while no other process may work in its folder."""
    with holding(task.folder):
        return task.work(on_step)


def completed(pool: Pool, roster: Roster, display: Display) -> Results:
    """Run the tasks of ``roster`` on ``pool``, as many at a time as it has slots.

    Raises what a task raises, at once. Where the process of a task has died ``TRIES`` times with no
    new checkpoint between, the others continue, and ``SoftmapError`` names it when they have ended.
    """
    futures: dict[Future[Any], TrainingTask] = {}
    waiting = iter(roster)

    def begin() -> None:
        for task in islice(waiting, max(0, pool.slots - len(futures))):
            futures[pool.submit(done, task)] = task

    begin()
    deaths = _Deaths()
    lost: list[str] = []
    following = _Following(display)
    while futures:
        ended, _ = wait(futures, timeout=LOOK, return_when=FIRST_COMPLETED)
        for future in ended:
            task = futures.pop(future)
            try:
                found = future.result()
            except BrokenExecutor as error:
                following.end(task)
                if deaths.of(task) < TRIES:
                    display.note(f"{task.name}: its process died ({error}); another continues it")
                    futures[pool.submit(done, task)] = task
                else:
                    lost.append(f"{task.name} ({error})")
                    roster.end(task, f"its process {DIED}, last by {error}")
                    display.note(f"{task.name}: its process {DIED}; the others continue")
            else:
                roster.end(task)
                begin()  # first, since processing a result takes time
                following.begin(task)
                yield task, found
        begin()  # slots may have been added
        following.look(futures)
    if lost:
        raise SoftmapError(
            f"not finished: {', '.join(lost)}: the process {DIED}; the same command tries again"
        )


class _Deaths:
    """Counts the deaths of each task's processes since its last progress."""

    def __init__(self) -> None:
        self._counts: Counter[TrainingTask] = Counter()
        self._places: dict[TrainingTask, str] = {}

    def of(self, task: TrainingTask) -> int:
        """Count one more death; returns the number since the task's last checkpoint."""
        place, before = reached(task.folder), self._places.get(task, "")
        if place > before:
            self._counts[task], self._places[task] = 0, place
        self._counts[task] += 1
        return self._counts[task]


class _Following:
    """Reports running tasks to the display, from the last lines of their logs."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._seen: dict[TrainingTask, Any] = {}

    def look(self, futures: dict[Future[Any], TrainingTask]) -> None:
        """Read each log once."""
        for task in [task for future, task in futures.items() if future.running()]:
            self.begin(task)
            line = last_logged(task.folder / "train.jsonl")
            if line is not None and line != self._seen[task]:
                self._seen[task] = line
                self._display.step(task.label, task.seed, line)

    def begin(self, task: TrainingTask) -> None:
        """Show that the task runs, once; lines of an earlier session are not shown."""
        if task not in self._seen:
            self._seen[task] = last_logged(task.folder / "train.jsonl")
            self._display.start(task.label, task.seed)

    def end(self, task: TrainingTask) -> None:
        """Show that the task has stopped without finishing."""
        if task in self._seen:
            del self._seen[task]
            self._display.drop(task.label, task.seed)
