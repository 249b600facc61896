"""Speed and memory of training, measured separately: nothing else runs, the variants take turns.

The speed that a training reports includes whatever else the machine did. Here a separate process
makes steps on random tokens, which does not change the speed, with a learning rate of 0, so that
the weights stay valid. Peak memory is measured in a fresh copy of the process for each variant:
memory that another one has freed cannot be reused.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.lab import files, machine
from softmap.lab.engine import Engine
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.peak_memory import PeakMemory
from softmap.lab.plan import Plan, PlannedModel, training_options
from softmap.lab.preflight import PER_PARAMETER, memory
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.trial import build
from softmap.lab.workbench import Workbench
from softmap.report.speed import FILE, read_speed
from softmap.train.optim import optimizer_of
from softmap.train.parallel import Parallel
from softmap.train.step import train_step

ROUNDS = 7
SECONDS = 0.2  #: the length of a variant's turn
MOST_STEPS = 50  #: the most steps of a turn
WARM_UP = 2  #: steps before the first turn; the first allocates the optimiser's state
BUSY = 0.25  #: cores that others may use on a machine that counts as idle
SPREAD = 0.2  #: largest 10th to 90th percentile range of an idle machine, over the median

T = TypeVar("T")


def measure_speed(
    folder: Path, plan: Plan, shared: Workbench, engine: Engine, display: Display
) -> None:
    """Write ``speed.json`` of a run, unless it is there, undisturbed, for these variants and
    settings.
    """
    labels = {planned.label for planned in plan.models}
    before = read_speed(folder)
    if (
        before is not None
        and before["disturbed"] is None
        and before.get("settings") == shared.settings
        and labels <= before["variants"].keys()
    ):
        return
    weights = sum(PER_PARAMETER * c.parameters["total"] for c in plan.models)
    if weights > memory(shared.device) // 2:
        display.note("speed is not measured separately: the models do not fit into memory together")
        return
    display.note("measuring speed and memory before training ...")
    given = plan.models, shared.recipe, shared.device, engine.threads
    try:
        with sigterm_raises(), engine.pool(folder, shared.device, display.note) as pool:
            found = pool.submit(measured, *given).result()
    except (SoftmapError, RuntimeError) as error:  # trainings do not depend on it
        display.note(f"speed could not be measured separately: {reason(error)}")
        return
    if found["disturbed"]:
        display.note(f"speed: {found['disturbed']}")
    files.write_json(folder / FILE, found | {"settings": shared.settings})


def measured(
    models: Sequence[PlannedModel], recipe: Recipe, device: torch.device, threads: int
) -> dict[str, Any]:
    """Returns tokens per second of each model in interleaved rounds, and its peak memory.

    ``disturbed`` is a sentence where the machine was not idle, else None.
    """
    torch.set_num_threads(threads)
    others = psutil.cpu_percent(1.0) / 100 * (psutil.cpu_count() or 1)
    peaks = {c.label: _alone(c, recipe, device) for c in models}
    steps = {c.label: training_step(build(c, 0, device), c, recipe) for c in models}
    for step in steps.values():
        timed(step, WARM_UP, device)
    turns = {
        label: max(1, min(MOST_STEPS, round(SECONDS / timed(step, 1, device))))
        for label, step in steps.items()
    }
    tokens = recipe.training.batch_size * recipe.model.context
    speeds: dict[str, list[float]] = {label: [] for label in steps}
    for turn in range(ROUNDS):
        for label in shuffled(list(steps), turn):
            speeds[label].append(tokens / timed(steps[label], turns[label], device))
    found = {label: spread(values) for label, values in speeds.items()}
    return {
        **machine.provenance(device),
        "rounds": ROUNDS,
        "batch_tokens": tokens,
        "cores_of_others": others,
        "load_average": list(os.getloadavg()),
        "disturbed": disturbed(others, found),
        "variants": {
            label: {"tokens_per_second": found[label], "peak_memory_bytes": peaks[label]}
            for label in found
        },
    }


def disturbed(others: float, speeds: dict[str, dict[str, Any]]) -> str | None:
    """Returns why the machine seems not to have been idle (load before, or unequal rounds), or
    None.
    """
    if others > BUSY:
        return f"the machine was not idle: other processes used {others:.1f} cores"
    widths = {name: (s["high"] - s["low"]) / s["median"] for name, s in speeds.items()}
    name = max(widths, key=lambda name: widths[name])
    if widths[name] <= SPREAD:
        return None
    return f"the machine was not idle: the rounds of {name} differ by {100 * widths[name]:.0f} %"


def training_step(net: Any, planned: PlannedModel, recipe: Recipe) -> Callable[[], Any]:
    """Returns a training step on random tokens."""
    given = training_options(recipe, planned.peak_lr, 0, planned.label)
    optimizer = optimizer_of(net, given)
    parallel = Parallel(next(net.parameters()).device, recipe.parallel)
    run = parallel.wrap(net.train(), compile=given.compile, precision=given.precision)
    batch = random_ids(planned.config.vocab_size, given.batch_size, given.context + 1)
    return lambda: train_step(run, optimizer, batch, 0.0, given, parallel)


def random_ids(vocab_size: int, rows: int, tokens: int) -> Tensor:
    """Returns token ids (rows, tokens), the same in every call."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocab_size, (rows, tokens), generator=generator)


def timed(step: Callable[[], Any], steps: int, device: torch.device) -> float:
    """Returns the seconds of one step, averaged over several."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / steps


def synchronize(device: torch.device) -> None:
    """Wait for all work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shuffled(items: Sequence[T], turn: int) -> list[T]:
    """Returns the items in an order of that round; the same round has the same order again.

    Each item leaves caches warm or cold for the next one, so none should always follow the same.
    """
    return random.Random(turn).sample(list(items), len(items))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Returns median, 10th and 90th percentile, and the number of values."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle), "low": float(low), "high": float(high), "count": len(values)}


def _alone(planned: PlannedModel, recipe: Recipe, device: torch.device) -> int | None:
    """Returns the peak memory of training in a fresh copy of this process.

    A GPU needs no copy, since PyTorch counts there itself. None where it could not be measured.
    """
    if device.type == "cuda" or not hasattr(os, "fork"):
        return _peak(planned, recipe, device)
    at, to = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.write(to, str(_peak(planned, recipe, device)).encode())
        os._exit(0)
    os.close(to)
    try:
        with open(at) as answer:
            return int(answer.read() or 0) or None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _peak(planned: PlannedModel, recipe: Recipe, device: torch.device) -> int:
    with PeakMemory(device) as peak:
        step = training_step(build(planned, 0, device), planned, recipe)
        for _ in range(WARM_UP):
            step()
        peak.sample()
    return peak.peak
