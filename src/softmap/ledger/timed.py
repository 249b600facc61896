"""Studies of speed: each run is its own process, in which the variants take turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from scipy import stats

from softmap.bench import decode
from softmap.claims._claim import Timed
from softmap.claims._rules import ArmRow
from softmap.lab import files
from softmap.lab.interrupts import sigterm_raises
from softmap.lab.plan import make_plan
from softmap.lab.preflight import vocabulary
from softmap.lab.recipe import Recipe
from softmap.lab.speed import measured
from softmap.ledger.judge import Part
from softmap.ledger.workspace import Workspace

ROUNDS = 3  #: rounds of decoding in a process
FOLDER = "speed"  #: the subfolder of a workspace that a measurement locks
SIZES = decode.Sizes(256, 8, 4, 1, 1024, 128, (), 4096, "float32")


def measure(study: Timed, workspace: Workspace) -> list[Part]:
    """Run as many processes as an arm has runs, one after another; returns each arm's ratios."""
    recipe = workspace.recipe(study.base, {arm.variant: 1 for arm in study.variants.values()})
    found: list[dict[str, float]] = []
    notes: dict[str, None] = {}
    folder = workspace.folder / FOLDER
    for run in range(workspace.seeds):
        workspace.tell(f"speed of a {study.what}: process {run + 1} of {workspace.seeds}")
        with files.lock(folder), sigterm_raises(), workspace.engine.pool(folder) as pool:
            speeds, note = pool.submit(once, study, recipe).result()
        found.append(speeds)
        notes |= {note: None} if note else {}
    values = {
        name: {run: speeds[arm.variant] / speeds[study.control] for run, speeds in enumerate(found)}
        for name, arm in study.variants.items()
    }
    rows = [_row(study, arm.name, arm.expects, values) for arm in study.arms]
    return [Part(study.measure, values, rows, notes=list(notes))]


def once(study: Timed, recipe: Recipe) -> tuple[dict[str, float], str | None]:
    """Returns the tokens per second of every variant, and what disturbed the measurement."""
    variants = [arm.variant for arm in study.variants.values()]
    if study.what == "decode":
        run = decode.DecodeBenchmark(variants, SIZES, "auto", torch.device("cpu"), lambda _: None)
        run.measure(ROUNDS)
        return {r["variant"]: r["tokens_per_second"]["median"] for r in run.record()["rows"]}, None
    plan = make_plan(recipe, vocabulary(recipe))
    mine = [c for c in plan.models if c.label in variants]
    found = measured(mine, recipe, torch.device("cpu"), 1)
    speeds = {n: one["tokens_per_second"]["median"] for n, one in found["variants"].items()}
    return speeds, found["disturbed"]


def _row(
    study: Timed, name: str, expects: str, values: Mapping[str, Mapping[int, float]]
) -> ArmRow:
    """Returns the mean ratio with its interval.

    Ratios are paired within a process, so it is Student's interval of their logarithm, at Sidak's
    level for all arms.
    """
    logs = np.log(list(values[name].values()))
    n = len(logs)
    row = ArmRow(
        name, study.control, expects, float(np.exp(logs.mean())), None, None, None, None, (n, n),
        study.measure.margin, zero=1.0,
    )  # fmt: skip
    if n < 2:
        return row
    level = 1 - 0.95 ** (1 / len(study.arms))
    error = logs.std(ddof=1) / n**0.5
    two, one = (stats.t.isf(level / sides, n - 1) * error for sides in (2, 1))
    low, high, equal_low, equal_high = (
        float(np.exp(logs.mean() + by)) for by in (-two, two, -one, one)
    )
    return dataclasses.replace(row, low=low, high=high, equal_low=equal_low, equal_high=equal_high)
