"""Processes of this machine that call functions, with one thread each: an ``Executor``.

Each has its own Python, its own PyTorch and, where there are GPUs, its own GPU. It imports once and
runs many calls. Calls and results go through a socket per process, so no lock is shared: a process
that is killed at any moment fails only its present call, with ``WorkerDied``, and another one
replaces it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from softmap.errors import SoftmapError
from softmap.lab.interrupts import Interrupted, sigterm_raises

THREADS = 1  #: threads of a worker; equal numbers make two runs equal bit for bit
OWN_MEMORY = 2**30  #: bytes that a worker needs before it has a model

if TYPE_CHECKING:
    import torch

# The program of a process; it alone imports PyTorch, so that its parent stays small.
_PROGRAM = "import sys; from softmap.lab.workers import work; work(*map(int, sys.argv[1:]))"
_starting = threading.Lock()
# Signals of a terminal to all of its processes. The parent gets them too, and stops its workers.
_PARENT_SIGNALS = (signal.SIGINT, signal.SIGHUP)


class WorkerDied(BrokenExecutor):
    """Raised when the process of a call ended before it had a result."""


def default_jobs(device: torch.device, needed: int = 0) -> int:
    """Returns the default number of workers: one per GPU, or per core as memory allows.

    Args:
        needed: bytes that the largest model needs in training.
    """
    if device.type == "cuda":
        return 1 if device.index is not None else torch.cuda.device_count()
    fit = psutil.virtual_memory().available // (OWN_MEMORY + needed)
    return max(1, min(cores(), int(fit)))


def cores() -> int:
    """Returns the number of cores that this process may use, by affinity and cgroup."""
    found = [psutil.cpu_count(logical=False) or 1, os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        found.append(len(os.sched_getaffinity(0)))
    with contextlib.suppress(OSError, ValueError):  # "max 100000" where there is no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        found.append(max(1, int(quota) // int(period)))
    return min(found)


def gpus(device: torch.device | None) -> Sequence[int]:
    """Returns the GPUs that processes share.

    There are none where the device is no GPU, or one GPU by name.
    """
    if device is None or device.type != "cuda" or device.index is not None:
        return ()
    import torch

    return range(torch.cuda.device_count())


class Pool(Executor):
    """An executor with a known number of simultaneous calls.

    What a call raises comes back as a ``SoftmapError`` if it is one or an OSError (a full disk),
    else as a ``RuntimeError`` with its traceback; ``WorkerDied`` where its process is lost, or
    stopped by a SIGTERM from elsewhere. ``shutdown(cancel_futures=True)`` stops running calls by
    SIGTERM, and so does a ``with`` block that ends by an error.
    """

    @property
    def slots(self) -> int:
        """The number of simultaneous calls."""
        raise NotImplementedError

    def __exit__(self, kind: Any, *_: object) -> None:
        self.shutdown(cancel_futures=kind is not None)


class Workers(Pool):
    """A pool of ``count`` processes, each started for its first call.

    Calls start in the order of submission.

    Args:
        gpus: GPUs that the processes share in turn.
        where: the processes' working folder.
        without: environment variables that they do not inherit.
    """

    def __init__(
        self,
        count: int,
        gpus: Sequence[int] = (),
        where: str | None = None,
        without: Sequence[str] = (),
    ) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._calls = queue.SimpleQueue()
        # They can import whatever their parent can.
        given = {name: value for name, value in os.environ.items() if name not in without}
        given["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._slots = [
            _Slot(self._calls, gpus[n % len(gpus)] if gpus else None, where, given)
            for n in range(count)
        ]

    @property
    def slots(self) -> int:
        """The number of processes that may run at once."""
        return len(self._slots)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call as any executor does; the function and its arguments are pickled."""
        future: Future[Any] = Future()
        self._calls.put((future, functools.partial(function, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes when their calls are done.

        Args:
            cancel_futures: do not start waiting calls, and stop running ones.
        """
        if cancel_futures:
            self._cancel()
        for _ in self._slots:
            self._calls.put(None)
        if not wait:
            return
        try:
            for slot in self._slots:
                slot.thread.join()
        except BaseException:  # told to stop a second time
            for slot in self._slots:
                slot.signal(signal.SIGKILL)
            raise

    def _cancel(self) -> None:
        with contextlib.suppress(queue.Empty):
            while (call := self._calls.get_nowait()) is not None:
                call[0].cancel()
        for slot in self._slots:
            slot.stop()


class _Slot:
    """A slot for one process, with the thread that talks to it."""

    def __init__(
        self,
        calls: queue.SimpleQueue[Any],
        gpu: int | None,
        where: str | None,
        environment: Mapping[str, str],
    ) -> None:
        self._calls, self._gpu, self._where, self._environment = calls, gpu, where, environment
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stopped = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def signal(self, number: int) -> None:
        """Send the process a signal, if there is one."""
        if self._process is not None:
            self._process.send_signal(number)  # has no effect where it has ended

    def stop(self) -> None:
        """Tell the process to stop, now or as soon as it has been started."""
        with _starting:
            self._stopped = True
            self.signal(signal.SIGTERM)

    def _run(self) -> None:
        # A process inherits its thread's signal mask, so none of these ever reaches it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PARENT_SIGNALS)
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                self._answer(future, function)
        if self._connection is not None and self._process is not None:
            self._connection.close()  # which ends the process
            self._process.wait()

    def _answer(self, future: Future[Any], function: Callable[[], Any]) -> None:
        try:
            found = self._call(function)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(found)

    def _call(self, function: Callable[[], Any]) -> Any:
        connection = self._start()
        try:
            connection.send(function)
            found, error = connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._death()) from None
        if error is not None:
            raise error
        return found

    def _start(self) -> Connection:
        with _starting:
            if self._stopped:
                raise WorkerDied("it was stopped before it began")
            if self._connection is None:
                self._connection, self._process = self._started()
            return self._connection

    def _started(self) -> tuple[Connection, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            words = [theirs.fileno(), os.getpid(), *([] if self._gpu is None else [self._gpu])]
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *map(str, words)], stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], cwd=self._where, env=self._environment,
            )  # fmt: skip
        return Connection(ours.detach()), process

    def _death(self) -> str:
        """Forget the process that has died; returns how it did."""
        assert self._connection is not None and self._process is not None
        self._connection.close()
        code = self._process.wait()
        self._process = self._connection = None
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def work(descriptor: int, parent: int, gpu: int | None = None) -> None:
    """Run the calls that arrive through the socket, until the parent is gone."""
    _die_with(parent)
    import torch

    connection = Connection(descriptor)
    torch.set_num_threads(THREADS)
    if gpu is not None:
        torch.cuda.set_device(gpu % torch.cuda.device_count())
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            connection.send(_outcome(connection.recv()))


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        with sigterm_raises():
            return function(), None
    except Interrupted as error:  # not by the parent, which would not wait for the answer
        return None, WorkerDied(signal.Signals(error.signal).name)
    except SoftmapError as error:
        return None, SoftmapError(error)  # subclasses may not be picklable
    except OSError as error:
        return None, SoftmapError(
            f"{error.filename}: {error.strerror}" if error.filename else error
        )
    except BaseException:
        return None, RuntimeError(traceback.format_exc())


def _die_with(parent: int) -> None:
    """End this process when its parent ends, since two must not write to one folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent ended before this took effect
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
