"""Times one call: by a wall clock on a CPU, by events on a GPU, with an empty cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

#: More than the second-level cache of any GPU so far (an H100 has 50 MB).
FLUSH_BYTES = 256 << 20


class Clock:
    """A clock; ``seconds(run)`` times one call; ``prepare`` runs untimed before it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        if self._cuda:
            self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)

    def seconds(self, run: Callable[[Any], Any], prepare: Callable[[], Any] | None = None) -> float:
        """Returns the time of ``run(prepare())``."""
        given = None if prepare is None else prepare()
        if self._cuda:
            return self._on_gpu(run, given)
        start = time.perf_counter()
        run(given)
        return time.perf_counter() - start

    def _on_gpu(self, run: Callable[[Any], Any], given: Any) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        self._flush.zero_()
        # The GPU is busy with the flush while the host queues the call, so that the launch of a
        # short call does not count as its time.
        begin.record()
        run(given)
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000  # type: ignore[no-any-return]
