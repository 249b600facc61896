"""Machines of a Dask cluster as a pool: the scheduler gets a call, and a worker has it run.

To Dask a call is bytes; ``softmap.lab.remote`` is the worker's side. A worker that is lost fails
its call with ``WorkerDied``, as a process of this machine does.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmap import files
from softmap.errors import SoftmapError, reason, shown
from softmap.extras import need
from softmap.lab import remote
from softmap.lab.workers import Pool, WorkerDied

if TYPE_CHECKING:
    import torch

CONNECT = 10.0  #: seconds in which a scheduler must answer
BEAT = 10.0  #: seconds between two heartbeats
GRACE = 120.0  #: seconds in which stopped calls must end
LOOK = 2.0  #: seconds for which the number of slots is cached
FOLDER = ".cluster"  #: the subfolder of a run that its workers must see
MOST = 1000  #: the most workers of this machine


def parse(text: str) -> int | str:
    """Returns N for ``local:N``, or the address or scheduler file as it is.

    Raises ``SoftmapError`` for anything else.
    """
    if local := re.fullmatch("local:([0-9]{1,9})", text):
        if 1 <= int(local[1]) <= MOST:
            return int(local[1])
    elif re.fullmatch(r"([a-z]+://)?[^\s:/]+:[0-9]{1,5}/?", text) and not text.startswith("local:"):
        return text
    elif text.endswith(".json"):
        if Path(text).is_file():
            return text
        raise SoftmapError(f"--cluster: expected the scheduler's file, found none at {text}")
    raise SoftmapError(
        "--cluster: expected a scheduler's address such as tcp://10.0.0.1:8786, its file (.json), "
        f"or local:N with N from 1 to {MOST}, found {shown(text)}"
    )


@contextlib.contextmanager
def connected(
    text: str | None, most: int | None = None, out: Path | None = None
) -> Iterator[Cluster | None]:
    """Yield the cluster at an address, in a scheduler's file, or of N processes of this machine.

    Args:
        most: the most calls at once.
        out: the folder that it will write to.

    Raises ``SoftmapError`` for a wrong address or file, where ``distributed`` is not installed, and
    where no scheduler answers.
    """
    if text is None:
        yield None
        return
    where = parse(text)
    if out is not None and re.match("[a-z0-9+]+:/", str(out)):
        raise SoftmapError(
            f"--cluster: expected a folder that all machines share, found the URL {out}: mount it, "
            "since files in it are renamed and locked"
        )
    need("--cluster", "distributed")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # we report what matters
    with _client(where, text) as client:
        yield Cluster(client, text, most)


@contextlib.contextmanager
def _client(where: int | str, text: str) -> Iterator[Any]:
    from distributed import Client

    with contextlib.ExitStack() as stack:
        try:
            if isinstance(where, int):
                local = stack.enter_context(_local(where))
                found = Client(local)
            elif where.endswith(".json"):
                found = Client(scheduler_file=where, timeout=CONNECT, set_as_default=False)
            else:
                found = Client(where, timeout=CONNECT, set_as_default=False)
        except Exception as error:  # Dask's, tornado's and the system's own
            raise SoftmapError(
                f"--cluster {text}: expected a scheduler, found none ({reason(error)})"
            ) from None
        stack.callback(found.close)
        yield found


def _local(number: int) -> Any:
    """Returns N workers of one thread each.

    Ctrl-C reaches this process alone, which stops the workers itself.
    """
    from distributed import LocalCluster

    blocked = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # the workers inherit this mask
    try:
        return LocalCluster(
            n_workers=number, threads_per_worker=1, dashboard_address=":0", memory_limit=0,
            silence_logs=logging.CRITICAL,
        )  # fmt: skip
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Cluster:
    """A scheduler that has answered.

    Attributes:
        text: its address as the user gave it.
        most: the most calls at once.
    """

    client: Any
    text: str
    most: int | None = None

    def slots(self, gpus: bool) -> int:
        """Returns the number of calls that its workers run at once.

        That is one for each GPU that they announce, if GPUs are asked for and announced, else one
        for each thread.
        """
        workers = self._workers().values()
        announced = sum(int(worker["resources"].get("GPU", 0)) for worker in workers)
        threads = sum(worker["nthreads"] for worker in workers)
        found = announced if gpus and announced else threads
        return min(found, self.most or found)

    def has_gpus(self) -> bool:
        """Returns whether a worker announces GPUs."""
        return any(worker["resources"].get("GPU") for worker in self._workers().values())

    def _workers(self) -> dict[str, Any]:
        with self.answering():
            found: dict[str, Any] = self.client.scheduler_info()["workers"]
            return found

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Raise ``SoftmapError`` where the scheduler does not answer within the block."""
        try:
            yield
        except SoftmapError:
            raise
        except Exception as error:
            raise self.gone(error) from None

    def gone(self, error: object = None) -> SoftmapError:
        """Returns the error for a scheduler that is gone."""
        why = f" ({reason(error)})" if isinstance(error, Exception) else ""
        return SoftmapError(
            f"--cluster {self.text}: the scheduler does not answer any more{why}; the same command "
            "continues the run"
        )

    def pool(
        self, folder: Path, device: torch.device | None, note: Callable[[str], None]
    ) -> ClusterPool:
        """Returns the pool of its workers, as soon as there is one.

        Raises ``SoftmapError`` unless all of them see ``folder`` and have our versions.
        """
        gpus = device is not None and device.type == "cuda" and self.has_gpus()
        if not self._workers():
            note(f"--cluster {self.text}: waiting for a worker ...")
            with self.answering():
                self.client.wait_for_workers(1)
        return ClusterPool(self, folder, gpus)


class _Call(Future[Any]):
    """A call; ``path`` is the file that the worker writes when it starts the call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def running(self) -> bool:
        return not self.done() and self._path.exists()


class ClusterPool(Pool):
    """The workers of a cluster. ``folder``, which all of them see, belongs to this pool."""

    def __init__(self, cluster: Cluster, folder: Path, gpus: bool) -> None:
        self._cluster = cluster
        mark, place = uuid.uuid4().hex, folder.absolute() / FOLDER
        self._terms = remote.WorkerTerms(os.getcwd(), place, mark, remote.versions(), gpus)
        self._calls: dict[_Call, Any] = {}  # Dask drops a future without a reference
        self._slots, self._looked = 0, -LOOK
        self._over = threading.Event()
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self._beat(0)
        try:
            self._check()
        except BaseException:
            self._forget()
            raise
        threading.Thread(target=self._live, daemon=True).start()

    @property
    def slots(self) -> int:
        """The number of calls that the workers run at once, looked up again every few seconds."""
        if time.monotonic() - self._looked > LOOK:
            self._slots = self._cluster.slots(self._terms.gpus)
            self._looked = time.monotonic()
        return self._slots

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call as any executor does; the function and its arguments are pickled."""
        pickled = pickle.dumps(functools.partial(function, *args, **kwargs))
        name = uuid.uuid4().hex
        call = _Call(self._terms.folder / name)
        if self._cluster.client.status in ("closing", "closed"):  # submit would block for ever
            raise self._cluster.gone()
        with self._cluster.answering():
            found = self._cluster.client.submit(
                remote.call, self._terms, name, pickled, key=f"softmap-{name}", pure=False,
                resources={"GPU": 1} if self._terms.gpus else None,
            )  # fmt: skip
        self._calls[call] = found
        found.add_done_callback(functools.partial(self._end, call))
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down as any pool does; calls that do not stop in two minutes are left to the
        workers.
        """
        if cancel_futures:
            self._over.set()
            waiting = [call for call in self._calls if not call.running()]
            shutil.rmtree(self._terms.folder, ignore_errors=True)  # which stops the workers
            for call in waiting:
                call.cancel()
                self._calls.pop(call).cancel()
        if wait:
            self._wait(GRACE if cancel_futures else None)
            self._forget()

    def _wait(self, seconds: float | None) -> None:
        wait([call for call in self._calls if not call.done()], timeout=seconds)

    def _end(self, call: _Call, found: Any) -> None:
        """Record the outcome of a call from Dask's future."""
        if call.done():
            return
        try:
            value, error = found.result()
        except BaseException as raised:
            value, error = None, self._translated(raised)
        self._calls.pop(call, None)
        if error is None:
            call.set_result(value)
        else:
            call.set_exception(error)

    def _translated(self, error: BaseException) -> Exception:
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return WorkerDied("its workers are gone")
        if type(error).__name__.endswith("CancelledError"):
            return self._cluster.gone()
        return SoftmapError(f"--cluster {self._cluster.text}: {reason(error)}")

    def _check(self) -> None:
        """Raise ``SoftmapError`` unless every worker can take part."""
        with self._cluster.answering():
            found = self._cluster.client.run(remote.objection, self._terms, on_error="return")
        bad = {worker: why for worker, why in found.items() if why is not None}
        for worker, why in bad.items():
            text = f"cannot import softmap ({reason(why)})" if isinstance(why, Exception) else why
            more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise SoftmapError(f"--cluster: the worker {worker} {text}{more}")

    def _live(self) -> None:
        beat = 0
        while not self._over.wait(BEAT):
            beat += 1
            with contextlib.suppress(OSError, SoftmapError):  # the disk may be full for a while
                self._beat(beat)

    def _beat(self, number: int) -> None:
        files.write(self._terms.folder / remote.SESSION, f"{self._terms.mark} {number}\n")

    def _forget(self) -> None:
        self._over.set()
        shutil.rmtree(self._terms.folder, ignore_errors=True)
