"""Studies of losses: the losses of the base's runs at their decayed points."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from softmap.claims._bases import Base
from softmap.claims._claim import Study, Trained
from softmap.claims._rules import ArmRow
from softmap.ledger.judge import Part, Values, differences
from softmap.ledger.training import curve, results, train
from softmap.ledger.workspace import Workspace
from softmap.report.answers import Question
from softmap.report.family import Family
from softmap.report.load import FinishedTrial as Curve
from softmap.report.load import Run
from softmap.report.ratios import Ratio, ratios

Curves = dict[str, dict[int, Curve]]


def needed(study: Study, workspace: Workspace) -> list[tuple[Base, dict[str, int]]]:
    """Returns the bases that the study needs, with the number of runs of each variant."""
    bases: dict[str, tuple[Base, dict[str, int]]] = {}
    for name, arm in study.models.items():
        wanted = 1 if study.one_model else workspace.runs(name in study.references)
        for base in study.bases(arm):
            _, runs = bases.setdefault(base.name, (base, {}))
            runs[arm.variant] = max(wanted, runs.get(arm.variant, 0))
    return list(bases.values())


def prepare(study: Study, workspace: Workspace) -> list[dict[str, Any]]:
    """Train what the study's bases lack; returns the results that it reads."""
    read = []
    for base, runs in needed(study, workspace):
        train(workspace, base, runs)
        read += [one for v, n in runs.items() for one in results(workspace, base, v, n).values()]
    return read


def measure(study: Trained, workspace: Workspace) -> list[Part]:
    """Returns the differences of final losses, or the ratios at equal loss, of runs that are
    there.
    """
    curves, diverged = read(study, workspace)
    values: Values = {
        name: {seed: one.budgets[-1].loss for seed, one in trials.items()}
        for name, trials in curves.items()
    }
    rows = differences(study, values, diverged)
    if study.reads != "loss":
        rows = [_ratio(study, row, curves) for row in rows]
    return [Part(study.measure, values, rows, diverged, curve=_picture(study, curves))]


def read(study: Study, workspace: Workspace) -> tuple[Curves, dict[str, int]]:
    """Returns the finished runs by arm, and how many diverged."""
    curves: Curves = {}
    diverged: dict[str, int] = {}
    for name, arm in study.models.items():
        number = workspace.runs(name in study.references)
        found = results(workspace, arm.base or study.base, arm.variant, number)
        curves[name] = {s: curve(name, s, one) for s, one in found.items() if one["budgets"]}
        if len(curves[name]) < len(found):
            diverged[name] = len(found) - len(curves[name])
    return curves, diverged


def _ratio(study: Trained, row: ArmRow, curves: Curves) -> ArmRow:
    """Returns the row with the ratio of tokens, or of compute, at equal loss."""
    pair = {name: curves[name] for name in (row.against, row.arm) if curves[name]}
    if len(pair) < 2 or row.low is None:
        return dataclasses.replace(row, zero=1.0)
    found = ratios(_family(study, row.against, curves))[row.arm]
    flops = [np.mean([one.result["flops_per_token"] for one in pair[n].values()]) for n in pair]
    factor = float(flops[1] / flops[0]) if study.reads == "compute" else 1.0
    value, low, high = (None if end is None else end * factor for end in _limits(found, row))
    return dataclasses.replace(
        row, mean=value, low=low, high=high, equal_low=low, equal_high=high, zero=1.0
    )


def _family(study: Trained, reference: str, curves: Curves) -> Family:
    """Returns the reference and the arms compared with it, in the form of one run's report."""
    names = [arm.name for arm in study.arms if (arm.against or study.control) == reference]
    info: dict[str, Any] = {"control": reference, "variants": [reference, *names]}
    mine = {name: curves[name] for name in (reference, *names) if curves[name]}
    return Family(Run(Path(), info, mine, []), Question(margin=study.measure.margin))


def _limits(ratio: Ratio, row: ArmRow) -> tuple[float | None, float, float]:
    """Returns the ratio and its limits.

    A limit beyond the curves is at their end or at none, by the side of 1 on which the difference
    lies.
    """
    assert row.low is not None and row.high is not None
    value = ratio.value if ratio.value is not None else ratio.limit
    low = ratio.low if ratio.low is not None else (value if row.low > 0 else 0.0)
    high = ratio.high if ratio.high is not None else (value if row.high < 0 else math.inf)
    assert low is not None and high is not None
    return value, low, high


def _picture(study: Trained, curves: Curves) -> dict[str, Any] | None:
    """Returns the curve of mean loss minus the control's by tokens."""
    means = {
        name: {b.tokens: float(np.mean([t.budgets[n].loss for t in trials.values()]))
               for n, b in enumerate(next(iter(trials.values())).budgets)}
        for name, trials in curves.items()
        if trials
    }  # fmt: skip
    control = means.get(study.control)
    if control is None or len(control) < 2:
        return None
    points = [
        {"variant": name, "x": tokens, "value": round(loss - control[tokens], 5)}
        for name, losses in means.items()
        for tokens, loss in losses.items()
        if tokens in control
    ]
    title = f"Loss minus that of {study.control} (nats)"
    return {"x": "Tokens (log scale)", "y": title, "log": True, "points": points}
