"""A trace of a few steps by torch's profiler, in Chrome's JSON: chrome://tracing, perfetto.dev."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softmap.files import write, writing

IDLE = 1  #: steps that are discarded while the profiler starts
STEPS = 3  #: steps in the trace


@contextmanager
def profiled(folder: Path | None, rank: int) -> Iterator[Callable[[], None] | None]:
    """Yield the function to call after each step, or None without a folder; then nothing is loaded.

    Steps 2 to 4 of this process are written to ``folder/rank<n>.json`` as soon as they are made, or
    as many of them as there are when the block ends.
    """
    if folder is None:
        yield None
        return
    from torch.profiler import profile, schedule

    def save(found: Any) -> None:
        path = folder / f"rank{rank}.json"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: found.export_chrome_trace(file.name))

    steps = schedule(wait=0, warmup=IDLE, active=STEPS, repeat=1)
    with profile(schedule=steps, on_trace_ready=save) as found:
        yield found.step
