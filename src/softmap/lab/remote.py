"""The worker's side of a cluster: it has a separate process run a call, and watches it.

Nothing here imports PyTorch, so a waiting worker stays small. As long as the client lives it keeps
a folder, ``.cluster`` in the run's, which every worker must see: its file ``session`` changes all
the time. When it stops changing, or is gone, the call is told to stop; its trial will continue from
its checkpoint. So workers learn of the client in one way only.
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
SILENCE = 90.0  #: seconds after which an unchanged session counts as over
SESSION = "session"
# Dask sets it; it makes the allocator return memory that training soon needs again.
REMOVED_VARIABLES = ("MALLOC_TRIM_THRESHOLD_",)

IDLE = 20.0  #: seconds that a process waits for the next call

_lock = threading.Lock()
_gpus: set[int] = set()  #: GPUs in use by the worker's calls
_left: dict[tuple[str, int | None], list[Workers]] = {}  #: waiting processes by session and GPU


@dataclass(frozen=True)
class WorkerTerms:
    """The conditions that a worker must meet to take part.

    Attributes:
        here: the folder in which the client was called.
        folder: the session's folder; its file begins with ``mark``.
        versions: versions of packages.
        gpus: whether each call needs its own GPU.
    """

    here: str
    folder: Path
    mark: str
    versions: dict[str, str]
    gpus: bool = False


def versions() -> dict[str, str]:
    """Returns the versions that results depend on, and that all machines must share."""
    return {"softmap": softmap.__version__, "torch": metadata.version("torch")}


def objection(terms: WorkerTerms) -> str | None:
    """Returns why this machine cannot take part, or None."""
    if not os.path.isdir(terms.here):
        return f"cannot see the folder {terms.here}, where softmap was called: all machines must"
    if read(terms) is None:
        return (
            f"cannot see what was written to {terms.folder.parent}: expected a folder that all "
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
    """Returns the present contents of the session's file, None where it is over or not visible."""
    try:
        said = (terms.folder / SESSION).read_text()
    except OSError:
        return None
    return said if said.startswith(terms.mark) else None


def call(terms: WorkerTerms, name: str, pickled: bytes) -> tuple[Any, Exception | None]:
    """Returns what a pickled function returned, or raised.

    Dask restarts a call whose worker is gone. The client has to count that, so such a call ends at
    once, with ``WorkerDied``.

    Args:
        name: the call's own name.
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
        raise WorkerDied(f"the worker {path.read_text() or 'before'} is gone") from None


def _made(terms: WorkerTerms, worker: Any, pickled: bytes) -> Any:
    mine = _free() if terms.gpus else None
    pool = _taken(terms.mark, mine)
    try:
        pool = pool or Workers(1, [] if mine is None else [mine], terms.here, REMOVED_VARIABLES)
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
    return pickle.loads(pickled)()  # pickled by our client, as everything that Dask sends here


def _free() -> int:
    """Reserve a GPU that no other call of this worker uses; returns its number."""
    with _lock:
        number = next(n for n in range(len(_gpus) + 1) if n not in _gpus)
        _gpus.add(number)
        return number


def _taken(mark: str, gpu: int | None) -> Workers | None:
    """Returns a waiting process of an earlier call of the session, if there is one."""
    with _lock:
        left = _left.get((mark, gpu), [])
        return left.pop() if left else None


def _leave(mark: str, gpu: int | None, pool: Workers) -> None:
    """Keep a process for the session's next call, which comes soon if at all."""

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
    """Tells whether a call's client, or its worker, is gone."""

    def __init__(self, terms: WorkerTerms, worker: Any) -> None:
        self._terms, self._worker = terms, worker
        self._said, self._heard = read(terms), time.monotonic()

    def __call__(self) -> bool:
        now = read(self._terms)
        if now is not None and now != self._said:
            self._said, self._heard = now, time.monotonic()
        silent = time.monotonic() - self._heard > SILENCE
        return now is None or silent or self._worker.status.name != "running"
