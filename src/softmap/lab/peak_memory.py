"""The peak memory of training: what it takes beyond what the process held before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from typing import Self

import psutil
import torch


class PeakMemory:
    """The largest memory that training takes, beyond what the process held before.

        with PeakMemory(device) as memory:
            ...train...; memory.sample()      # what has been needed so far counts
            ...evaluate...; memory.forget()   # this does not

    On a GPU it is PyTorch's own count; on Linux the kernel's high-water mark of resident memory,
    which can be reset; elsewhere a thread that looks every 10 ms.
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
        """Do nothing: it holds no resources."""


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
        """Do nothing: it holds no resources."""


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
