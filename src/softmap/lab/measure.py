"""Speed and memory of training, and what it was measured on."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import subprocess
import threading
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import torch

WARM_UP = 20  #: steps whose speed says more about caches and first allocations than about the model


class PeakMemory:
    """The largest memory that training takes, beyond what the process held before.

        with PeakMemory(device) as memory:
            ...train...; memory.sample()      # what has been needed so far counts
            ...evaluate...; memory.forget()   # this did not

    On a GPU: PyTorch's own count. On Linux: the kernel's high-water mark of resident memory,
    which can be reset. Elsewhere: a thread that looks every 10 ms.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak = 0
        self._source: _Cuda | _HighWater | _Sampler
        if device.type == "cuda":
            self._source = _Cuda(device)
        else:
            self._source = _HighWater() if _HighWater.works() else _Sampler()

    def __enter__(self) -> Self:
        _release()
        self._source.reset()
        self._baseline = self._source.now()
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def sample(self) -> None:
        """Include the peak since the last call."""
        self.peak = max(self.peak, self._source.peak() - self._baseline)

    def forget(self) -> None:
        """Leave out the peak since the last call."""
        self._source.reset()


class _Cuda:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def close(self) -> None:
        """Nothing is held."""


class _HighWater:
    _RESET = Path("/proc/self/clear_refs")

    @classmethod
    def works(cls) -> bool:
        with contextlib.suppress(OSError):
            cls().reset()
            return True
        return False

    def now(self) -> int:
        return _status("VmRSS")

    def peak(self) -> int:
        return _status("VmHWM")

    def reset(self) -> None:
        self._RESET.write_text("5")

    def close(self) -> None:
        """Nothing is held."""


class _Sampler:
    def __init__(self, interval: float = 0.01) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(interval,), daemon=True)
        self._thread.start()

    def now(self) -> int:
        return int(self._process.memory_info().rss)

    def peak(self) -> int:
        return max(self._peak, self.now())

    def reset(self) -> None:
        self._peak = 0

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self, interval: float) -> None:
        while not self._stop.wait(interval):
            self._peak = max(self._peak, self.now())


def speed(log: list[dict[str, float]]) -> tuple[float | None, list[float] | None]:
    """Returns median and [10th, 90th percentile] of the logged tokens per second, without
    warm-up.
    """
    found = [line["tokens_per_second"] for line in log if line["step"] > WARM_UP]
    found = found or [line["tokens_per_second"] for line in log]
    if not found:
        return None, None
    low, middle, high = np.percentile(found, [10, 50, 90])
    return float(middle), [float(low), float(high)]


def device_facts(device: torch.device) -> dict[str, Any]:
    """Returns kind, name, cores, threads and memory of the device."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        own: dict[str, Any] = {"name": found.name, "memory_bytes": found.total_memory}
    else:
        own = {"name": _cpu_name(), "memory_bytes": psutil.virtual_memory().total}
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    return {"kind": device.type, "cores": cores, "threads": torch.get_num_threads(), **own}


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("torch", "triton", "transformers", "tokenizers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """Returns the commit of the running source tree, with ``+`` if it was changed; None
    elsewhere.
    """
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """Returns the time in ISO 8601 with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _release() -> None:
    # Memory that an earlier variant freed but the allocator kept would hide this one's need.
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def provenance(device: torch.device) -> dict[str, Any]:
    """Returns when, from which commit, with which versions and on what a number was measured."""
    return {
        "created": now(),
        "commit": commit(),
        "versions": versions(),
        "device": device_facts(device),
    }
