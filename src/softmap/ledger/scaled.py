"""Studies of size: a scaling law fitted to each variant's runs at several sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from softmap.claims._claim import Arm, Scaled
from softmap.claims._rules import ArmRow
from softmap.ledger.judge import Part, Values
from softmap.ledger.trained import needed
from softmap.ledger.workspace import Workspace
from softmap.report import load
from softmap.report.scaling.summary import Limits, summary
from softmap.report.scaling.sweep import Sweep, sweep


def measure(study: Scaled, workspace: Workspace) -> list[Part]:
    """Fit the laws to the runs that are there; returns the ratio of each arm."""
    return [part(study, sweep(list(_runs(study, workspace))))]


def _runs(study: Scaled, workspace: Workspace) -> Iterator[load.Run]:
    """Yields one run of each size, with the study's variants and seeds alone."""
    for base, wanted in needed(study, workspace):
        found = load.load(workspace.folder / base.name)
        mine = {
            name: {seed: found.trials[name][seed] for seed in range(number)
                   if seed in found.trials[name]}
            for name, number in wanted.items()
            if name in found.trials
        }  # fmt: skip
        info = found.info | {"control": study.control, "variants": list(wanted)}
        yield dataclasses.replace(found, info=info, trials=mine)


def part(study: Scaled, swept: Sweep) -> Part:
    """Returns the rows of a sweep."""
    laws = summary(swept)
    ratios = {name: one["ratios"] for name, one in laws["variants"].items() if one["ratios"]}
    rows = [
        _row(study, arm, ratios.get(arm.name, {}).get(study.reads), swept) for arm in study.arms
    ]
    return Part(study.measure, _losses(swept), rows, notes=laws["caveats"])


def _row(study: Scaled, arm: Arm, limits: Limits | None, swept: Sweep) -> ArmRow:
    """Returns the ratio with its interval; an end that no law reaches is infinite.

    Tests of equality also use the two-sided interval, which is the wider one.
    """
    cells = [swept.cells.get(name, []) for name in (arm.name, study.control)]
    runs = tuple(min((cell.runs for cell in mine), default=0) for mine in cells)
    ends: dict[str, float | None] = dict.fromkeys(("value", "low", "high"))
    if limits is not None:
        ends = {name: math.inf if end is None else end for name, end in limits.items()}
    low, high = ends["low"], ends["high"]
    return ArmRow(
        arm.name, study.control, arm.expects, ends["value"], low, high, low, high,
        (runs[0], runs[1]), study.measure.margin, zero=1.0,
    )  # fmt: skip


def _losses(swept: Sweep) -> Values:
    """Returns the final loss of every run, by variant and size."""
    return {
        f"{name} {cell.parameters:,}": dict(enumerate(cell.losses_RNW[:, -1].mean(axis=1)))
        for name, cells in swept.cells.items()
        for cell in cells
    }
