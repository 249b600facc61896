"""The state of a folder's trainings while they run: ``trials.json``, and who works at each.

``trials.json`` lists all requested trainings, with those that have ended. Which ones are running is
not written down, since a machine may fail without notice: a training runs as long as a process
locks its folder's ``.worker``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.files.sealed import parse_json, read_object
from softmap.lab import files

if TYPE_CHECKING:
    from softmap.lab.schedule import TrainingTask

FILE = "trials.json"
HELD = ".worker"  #: names the process that works in a training's folder, and is locked by it
LAST_BYTES = 4096  #: bytes of a log that contain its last line
PATIENCE = 180.0  #: seconds that an abandoned process may take to notice


class RosterEntry(TypedDict):
    """A training, its ``folder`` within the run's, and why it was abandoned (``failed``)."""

    label: str
    seed: int
    folder: str
    steps: int
    ended: bool
    failed: str | None


class RosterFile(TypedDict):
    """The contents of ``trials.json``."""

    trials: list[RosterEntry]


class Roster:
    """Tasks in their order, and their state in the ``trials.json`` of ``folder``.

    Tasks of a list are waiting from the start; those of other iterables are added when their turn
    comes.

    Args:
        steps: the number of steps of each task.
    """

    def __init__(self, folder: Path, tasks: Iterable[TrainingTask], steps: int) -> None:
        self._folder, self._tasks, self._steps = folder, tasks, steps
        self._entries: dict[str, RosterEntry] = {}
        with contextlib.suppress(SoftmapError):  # the list only informs: training continues
            self._entries = {entry["folder"]: entry for entry in read(folder) if entry["ended"]}
        if isinstance(tasks, list):
            for task in tasks:
                self._add(task)
            self._write()

    def __iter__(self) -> Iterator[TrainingTask]:
        for task in self._tasks:
            if self._add(task):
                self._write()
            yield task

    def end(self, task: TrainingTask, failed: str | None = None) -> None:
        """Record that a training has ended, or was abandoned."""
        self._entries[self._place(task)] |= {"ended": failed is None, "failed": failed}
        self._write()

    def _place(self, task: TrainingTask) -> str:
        return os.path.relpath(task.folder, self._folder)

    def _add(self, task: TrainingTask) -> bool:
        place = self._place(task)
        if place in self._entries and not self._entries[place]["ended"]:
            return False
        self._entries[place] = RosterEntry(
            label=task.label, seed=task.seed, folder=place, steps=self._steps, ended=False,
            failed=None,
        )  # fmt: skip
        return True

    def _write(self) -> None:
        files.write_json(self._folder / FILE, {"trials": list(self._entries.values())}, seal=False)


def read(folder: Path) -> list[RosterEntry]:
    """Returns the trainings that ``folder`` lists; none if it has no list.

    Raises ``SoftmapError`` for a damaged list.
    """
    path = folder / FILE
    if not path.exists():
        return []
    found: Any = read_object(path)
    check(str(path), found, RosterFile)
    return list(found["trials"])


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Lock the folder of a training for the block: two processes that write to it would damage it.

    A process that was abandoned, on a machine that was cut off, may take a while to notice. Raises
    ``SoftmapError`` where it keeps the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / HELD, "a+", opener=files.plain) as file:
        _lock(file.fileno(), folder)
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        file.flush()
        yield


def _lock(descriptor: int, folder: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise SoftmapError(
                    f"{folder}: expected no process at work in it, found {holder(folder)}"
                ) from None
            time.sleep(0.2)


def holder(folder: Path) -> str | None:
    """Returns ``HOST:PROCESS`` of the process at work in the folder of a training, or None."""
    try:
        with open(folder / HELD) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError, LookupError, TypeError):
                    found = json.loads(file.read(1000))
                    return f"{found['host']}:{found['process']}"
                return "an unknown process"
    except OSError:
        pass
    return None


def last_logged(path: Path) -> dict[str, Any] | None:
    """Returns the last complete line of a training's log, if there is one."""
    with contextlib.suppress(OSError, ValueError, LookupError, AttributeError):
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            *lines, _ = file.read().split(b"\n")
        found: dict[str, Any] = parse_json(lines[-1])
        return found if {"step", "loss"} <= found.keys() else None
    return None
