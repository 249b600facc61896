"""Joining the other processes of a training, and one-line errors where that fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch

from softmap.errors import SoftmapError, reason
from softmap.train.layout import Layout
from softmap.train.parallel import Parallel, PeerError, Processes

_OURS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TIMEOUT = ("timed out", "timeout")


def ranks() -> int:
    """Returns the number of processes that torchrun, or a launcher that sets its variables,
    started.
    """
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Returns the rank of this process."""
    return _number("RANK", 0)


@contextmanager
def processes(layout: Layout, device: torch.device, facts: Mapping[str, str]) -> Iterator[Parallel]:
    """Yield the processes of the training: on the CPU by gloo, on GPUs by nccl.

    Args:
        facts: what must be the same on all of them.

    Raises ``SoftmapError`` in one line where they cannot connect, differ, or lose one of them.
    """
    if ranks() == 1:
        yield Parallel(device, layout)
        return
    with named_errors(layout):
        device = _own(device)
        backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
        _meet(backend, timedelta(seconds=layout.timeout))
        found = Processes(device, layout, rank(), ranks())
        check_same(found, facts)
        yield found
    torch.distributed.destroy_process_group()  # not after an error: others may be gone


@contextmanager
def report_once() -> Iterator[None]:
    """Let the first process alone report an error that all of them raise; the others exit."""
    try:
        yield
    except SoftmapError as error:
        met = torch.distributed.is_available() and torch.distributed.is_initialized()
        if rank() and (isinstance(error, PeerError) or not met):
            raise SystemExit(2) from None
        raise
    except KeyboardInterrupt as stop:
        if rank():
            raise SystemExit(128 + getattr(stop, "signal", signal.SIGINT)) from None
        raise


def _meet(backend: str, timeout: timedelta) -> None:
    """Connect the processes under a name of this attempt.

    Where torchrun keeps one store for all attempts, it also holds the addresses of processes that
    are gone.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, own, count = next(
        torch.distributed.rendezvous("env://", rank(), ranks(), timeout=timeout)
    )
    store = torch.distributed.PrefixStore(f"attempt{attempt}", store)
    torch.distributed.init_process_group(
        backend, store=store, rank=own, world_size=count, timeout=timeout
    )


def _own(device: torch.device) -> torch.device:
    """Returns this process's own GPU, or the device itself where that is no GPU."""
    missing = [name for name in _OURS if name not in os.environ]
    if missing:
        raise SoftmapError(
            f"{', '.join(missing)}: expected in the environment together with WORLD_SIZE, as "
            "torchrun sets them, found none"
        )
    if device.type != "cuda":
        return device
    local, count = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= count:
        raise SoftmapError(
            f"process {local} of this machine has no GPU of its own: expected at most {count} "
            "processes a machine (--nproc-per-node)"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def check_same(parallel: Parallel, facts: Mapping[str, str]) -> None:
    """Raise ``SoftmapError`` where the facts of a rank are not those of the first."""
    every = parallel.together(lambda: dict(facts))
    for other, theirs in enumerate(every):
        for name in facts:
            if theirs.get(name) != every[0].get(name):
                raise SoftmapError(
                    f"all processes must have the same {name}: expected {every[0].get(name)}, as "
                    f"rank 0 has, found {theirs.get(name)} on rank {other}"
                )


@contextmanager
def named_errors(layout: Layout) -> Iterator[None]:
    """Raise an error between processes as one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.distributed.DistStoreError | torch.distributed.DistNetworkError):
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise SoftmapError(f"rank {rank()}: {_meeting(text, where, layout)}") from error
        if not (isinstance(error, torch.distributed.DistError) or "gloo" in text.lower()):
            raise
        if any(word in text.lower() for word in _TIMEOUT):
            what = f"another process did not answer for {layout.timeout:g} s (parallel.timeout)"
        else:
            what = f"another process is gone ({reason(error)[:200]})"
        raise SoftmapError(
            f"rank {rank()}: {what}; torchrun --max-restarts N restarts all of them from the last "
            "checkpoint"
        ) from error


def _meeting(text: str, where: str, layout: Layout) -> str:
    if "EADDRINUSE" in text or "address already in use" in text.lower():
        return f"{where}: the port is in use: expected a free one (torchrun --master-port)"
    return (
        f"expected {ranks()} processes to meet at {where} within {layout.timeout:g} s "
        f"(parallel.timeout), found fewer"
    )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise SoftmapError(f"{name}: expected a whole number in the environment, found {text!r}")
    return int(text)
