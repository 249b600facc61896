"""What the tests let worker processes do; these import it by its name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError


class Odd(SoftmapError):
    """An error that cannot be made again from its message."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}\nare odd")


def dies(
    folder: Path, times: int, number: int = signal.SIGKILL, on_step: Any = None
) -> dict[str, Any]:
    """Ends its own process, so many times."""
    folder.mkdir(exist_ok=True)
    before = len(list(folder.iterdir()))
    if before < times:
        (folder / str(before)).touch()
        os.kill(os.getpid(), number)
        time.sleep(10)
    return {"deaths": before}


def gets_further_and_dies(folder: Path, deaths: int, on_step: Any = None) -> dict[str, Any]:
    """Ends its own process so many times, each time one checkpoint further."""
    before = len(list((folder / "checkpoints").glob("*")))
    if before < deaths:
        (folder / "checkpoints" / f"000-{before:09d}").mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)
    return {"deaths": before}


def fails(kind: str) -> None:
    """Raises an error of that kind."""
    if kind == "ours":
        raise Odd(1, 3)
    if kind == "system":
        Path("/nowhere/at/all").read_bytes()
    raise ZeroDivisionError("nobody expects it")


def counts(folder: Path) -> dict[str, Any]:
    """Its process, and the threads of PyTorch in it."""
    import torch

    return {"pid": os.getpid(), "threads": torch.get_num_threads()}


def killed_once(trial: Any, bench: Any, on_step: Any) -> dict[str, Any]:
    """A trial; that of diff is killed with its process at step 6, and begins there again."""
    from softmap.lab.trial import run_trial

    if trial.planned.label != "diff":
        return run_trial(trial, bench, on_step)
    first = trial.folder.parent / "first"
    seen = []

    def step(metrics: Mapping[str, float]) -> None:
        seen.append(metrics["step"])
        if metrics["step"] == 6 and not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    result = run_trial(trial, bench, step)
    assert seen[0] > 1 and first.exists()
    return result


def slow(trial: Any, bench: Any, on_step: Any) -> dict[str, Any]:
    """A trial that can be stopped on its way."""
    from softmap.lab.trial import run_trial

    return run_trial(trial, bench, lambda _: time.sleep(1))


def machine_killed_once(trial: Any, bench: Any, on_step: Any) -> dict[str, Any]:
    """A trial; that of diff ends the worker that had this process started, at step 6."""
    from softmap.lab.trial import run_trial

    first = trial.folder.parent / "first"
    seen = []

    def step(metrics: Mapping[str, float]) -> None:
        seen.append(metrics["step"])
        if trial.planned.label == "diff" and metrics["step"] == 6 and not first.exists():
            first.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # it is killed with it

    result = run_trial(trial, bench, step)
    assert trial.planned.label != "diff" or seen[0] > 1
    return result


def kills_its_worker(folder: Path, times: int, on_step: Any = None) -> dict[str, Any]:
    """Ends the worker that had its process started, so many times."""
    folder.mkdir(exist_ok=True)
    before = len(list(folder.iterdir()))
    if before < times:
        (folder / str(before)).touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return {"deaths": before}


def sees() -> dict[str, Any]:
    """Where it is, and what it was given."""
    names = ("PYTHONPATH", "MALLOC_TRIM_THRESHOLD_")
    found = {"folder": os.getcwd(), "parent": os.getppid(), "process": os.getpid()}
    return {**found, **{name: os.environ.get(name) for name in names}}
