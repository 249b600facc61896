"""Many tasks on an ``Executor``: what runs is followed, and what a dead process left goes on.

A task writes all that it does to its folder, ``train.jsonl`` as it goes. Nothing else is needed to
follow it, so any executor will do whose processes see the folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.files.sealed import parse_json
from softmap.lab.bench import Bench, Packed
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.progress import Display
from softmap.lab.trial import OnStep
from softmap.lab.workers import Workers

TRIES = 3  #: processes that may die of one task
LOOK = 0.25  #: seconds between two looks at what runs
LAST_BYTES = 4096  #: of a log: more than its last line


@dataclass(frozen=True)
class Task:
    """One trial or point.

    label, seed: its place in the display. train: given the bench, and what to call with each
    logged step, it writes to ``folder`` and returns what came out; it can be pickled.
    """

    label: str
    seed: int
    folder: Path
    train: Callable[[Bench, OnStep], dict[str, Any]] = field(compare=False)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.label} seed {self.seed}"


Results = Generator[tuple[Task, dict[str, Any]], None, None]


def results(tasks: Iterable[Task], bench: Bench, display: Display, jobs: int, out: Path) -> Results:
    """Train the tasks; yields each with what came out, as they end.

    tasks: the next is asked for when there is a worker for it. jobs: how many at once, each in a
    process of one thread; 1: one after another, in this one. out: the folder of all runs. To be
    closed: that returns when all processes have ended, stopped with a checkpoint where they were
    not done. Raises what a task raises, and ``Interrupted``.
    """
    if jobs == 1:
        yield from _here(tasks, bench, display)
        return
    tasks = iter(tasks)
    first = list(islice(tasks, jobs))
    if not first:
        return
    packed = Packed.of(bench, out)
    work = ((task, functools.partial(_there, packed, task)) for task in chain(first, tasks))
    with sigterm_raises(), Workers(len(first), bench.device) as executor:
        yield from completed(executor, work, display, len(first))


def _here(tasks: Iterable[Task], bench: Bench, display: Display) -> Results:
    for task in tasks:
        display.start(task.label, task.seed)
        on_step = functools.partial(display.step, task.label, task.seed)
        yield task, task.train(bench, on_step)


def _there(packed: Packed, task: Task) -> dict[str, Any]:
    return task.train(packed.unpacked(), lambda _: None)


def completed(
    executor: Executor,
    work: Iterable[tuple[Task, Callable[[], dict[str, Any]]]],
    display: Display,
    at_once: int,
) -> Results:
    """Call the work of each task on ``executor``, ``at_once`` of them at a time.

    Raises what it raises, at once. Where the process of a task has died ``TRIES`` times, the
    others go on, and ``SoftmapError`` names it when they have ended.
    """
    futures: dict[Future[Any], Task] = {}
    calls: dict[Task, Callable[[], dict[str, Any]]] = {}
    waiting = iter(work)

    def begin() -> None:
        for task, call in islice(waiting, at_once - len(futures)):
            calls[task] = call
            futures[executor.submit(call)] = task

    begin()
    deaths: Counter[Task] = Counter()
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
                deaths[task] += 1
                if deaths[task] < TRIES:
                    display.note(f"{task.name}: its process died ({error}); it goes on in another")
                    futures[executor.submit(calls[task])] = task
                else:
                    lost.append(f"{task.name} ({error})")
                    display.note(f"{task.name}: its process died {TRIES} times; the others go on")
            else:
                begin()  # first of all: what is done with a result takes its time
                following.begin(task)
                yield task, found
        following.look(futures)
    if lost:
        raise SoftmapError(
            f"not finished: {', '.join(lost)}: the process died {TRIES} times; the same command "
            "tries again"
        )


class _Following:
    """Tells the display of the tasks that run, by the last lines of their logs."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._seen: dict[Task, Any] = {}

    def look(self, futures: dict[Future[Any], Task]) -> None:
        """One look at each."""
        for task in [task for future, task in futures.items() if future.running()]:
            self.begin(task)
            line = last_logged(task.folder / "train.jsonl")
            if line is not None and line != self._seen[task]:
                self._seen[task] = line
                self._display.step(task.label, task.seed, line)

    def begin(self, task: Task) -> None:
        """It runs, if that is news. What an earlier session has logged is none."""
        if task not in self._seen:
            self._seen[task] = last_logged(task.folder / "train.jsonl")
            self._display.start(task.label, task.seed)

    def end(self, task: Task) -> None:
        """It runs no more, and has not finished."""
        if task in self._seen:
            del self._seen[task]
            self._display.drop(task.label, task.seed)


def last_logged(path: Path) -> dict[str, Any] | None:
    """The last whole line of a training's log, if there is one by now."""
    with contextlib.suppress(OSError, ValueError, LookupError, AttributeError):
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            *lines, _ = file.read().split(b"\n")
        found: dict[str, Any] = parse_json(lines[-1])
        return found if {"step", "loss"} <= found.keys() else None
    return None
