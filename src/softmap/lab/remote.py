"""What a worker of a cluster does with a call: it has a process of its own make it, and looks on.

Nothing here imports PyTorch: a worker that waits stays small. The client keeps a folder for as long
as it lives, ``.cluster`` in the run's, which every worker must see: its file ``session`` changes
all the time. Where it stops to, or is gone, the call is told to stop: its trial will go on from its
checkpoint. So there is no second way in which workers hear of the client.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from concurrent.futures import wait
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import softmap
from softmap.errors import SoftmapError
from softmap.lab.workers import WorkerDied, Workers

LOOK = 1.0  #: seconds between two looks at the session
SILENCE = 90.0  #: seconds after which a session that has not changed is over
SESSION = "session"
# Dask sets it for its own sake; it makes the allocator give memory back that training wants again.
WITHOUT = ("MALLOC_TRIM_THRESHOLD_",)

IDLE = 20.0  #: seconds that a process waits for the next call

_lock = threading.Lock()
_gpus: set[int] = set()  #: that calls of this worker have, beside one another
_left: dict[tuple[str, int | None], list[Workers]] = {}  #: by session and GPU: processes that wait


@dataclass(frozen=True)
class WorkerTerms:
    """What a worker must see and have, to take part.

    Attributes:
        here: the folder in which the client was called.
        folder: the session's, of the name ``mark``.
        versions: of packages.
        gpus: whether a call needs a GPU of its own.
    """

    here: str
    folder: Path
    mark: str
    versions: dict[str, str]
    gpus: bool = False


def versions() -> dict[str, str]:
    """Of what a result depends on: all machines must have the same."""
    return {"softmap": softmap.__version__, "torch": metadata.version("torch")}


def objection(terms: WorkerTerms) -> str | None:
    """Why this machine cannot take part, or None."""
    if not os.path.isdir(terms.here):
        return f"sees no folder {terms.here}, where softmap was called: all machines must"
    if read(terms) is None:
        return (
            f"does not see what was written to {terms.folder.parent}: expected a folder that all "
            "machines share (--out)"
        )
    mine = versions()
    other = [name for name in mine if mine[name] != terms.versions[name]]
    if not other:
        return None
    return (
        f"has {' and '.join(f'{name} {mine[name]}' for name in other)}, "
        f"expected {' and '.join(f'{name} {terms.versions[name]}' for name in other)}"
    )


def read(terms: WorkerTerms) -> str | None:
    """What the session says now, None where it is over or out of sight."""
    try:
        said = (terms.folder / SESSION).read_text()
    except OSError:
        return None
    return said if said.startswith(terms.mark) else None


def call(terms: WorkerTerms, name: str, pickled: bytes) -> tuple[Any, Exception | None]:
    """What a pickled function returned, or raised. ``name``: the call's own.

    Dask begins a call again whose worker has gone. It is for the client to count that, so such a
    call ends at once, with ``WorkerDied``.
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        if (why := objection(terms)) is not None:
            raise SoftmapError(f"the worker {worker.address} {why}")
        _begin(terms.folder / name, worker.address)
        return _made(terms, worker, pickled), None
    except (SoftmapError, WorkerDied, RuntimeError) as error:
        return None, error


def _begin(path: Path, address: str) -> None:
    try:
        with path.open("x") as file:
            file.write(address)
    except FileExistsError:
        raise WorkerDied(f"the worker {path.read_text() or 'before'} has gone") from None


def _made(terms: WorkerTerms, worker: Any, pickled: bytes) -> Any:
    mine = _free() if terms.gpus else None
    pool = _taken(terms.mark, mine)
    try:
        pool = pool or Workers(1, [] if mine is None else [mine], terms.here, WITHOUT)
        future, over = pool.submit(_unpickled, pickled), _Over(terms, worker)
        while not wait([future], timeout=LOOK).done:
            if over():
                pool.shutdown(cancel_futures=True)
        found = future.result()
        _leave(terms.mark, mine, pool)
        return found
    except BaseException:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        raise
    finally:
        _gpus.discard(mine)  # type: ignore[arg-type]


def _unpickled(pickled: bytes) -> Any:
    return pickle.loads(pickled)()  # our client's own, as all that Dask brings here


def _free() -> int:
    """A GPU that no other call of this worker has."""
    with _lock:
        number = next(n for n in range(len(_gpus) + 1) if n not in _gpus)
        _gpus.add(number)
        return number


def _taken(mark: str, gpu: int | None) -> Workers | None:
    """The process that an earlier call of the session has left, if there is one."""
    with _lock:
        left = _left.get((mark, gpu), [])
        return left.pop() if left else None


def _leave(mark: str, gpu: int | None, pool: Workers) -> None:
    """Keep a process for the next call of the session, which comes soon, if at all."""

    def dismiss() -> None:
        with _lock:
            left = _left.get((mark, gpu), [])
            idle = pool in left
            if idle:
                left.remove(pool)
            if not left:
                _left.pop((mark, gpu), None)
        if idle:
            pool.shutdown()

    with _lock:
        _left.setdefault((mark, gpu), []).append(pool)
    timer = threading.Timer(IDLE, dismiss)
    timer.daemon = True
    timer.start()


class _Over:
    """Whether a call's client, or its worker, is no more."""

    def __init__(self, terms: WorkerTerms, worker: Any) -> None:
        self._terms, self._worker = terms, worker
        self._said, self._heard = read(terms), time.monotonic()

    def __call__(self) -> bool:
        now = read(self._terms)
        if now is not None and now != self._said:
            self._said, self._heard = now, time.monotonic()
        silent = time.monotonic() - self._heard > SILENCE
        return now is None or silent or self._worker.status.name != "running"
