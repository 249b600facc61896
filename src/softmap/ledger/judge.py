"""From the numbers of runs to rows, by the statistics of every comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from softmap.claims._claim import Arm, Measure, Study
from softmap.claims._rules import ArmRow
from softmap.report.answers import Comparison, Question

Values = Mapping[str, Mapping[int, float]]  # arm, seed


@dataclass(frozen=True)
class Part:
    """The findings of a study on one quantity.

    Attributes:
        values: the number of every run.
        rows: a row for each arm.
        diverged: the number of diverged trainings by arm.
        what: the condition, where there are several.
        curve: means by a condition, for the chart.
        notes: sentences for the page.
    """

    measure: Measure
    values: Values
    rows: Sequence[ArmRow]
    diverged: Mapping[str, int] = field(default_factory=dict)
    what: str = ""
    curve: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


def differences(
    study: Study, values: Values, diverged: Mapping[str, int] | None = None, what: str = ""
) -> list[ArmRow]:
    """Returns the difference of every arm to its reference; arms with one reference are a
    family.
    """
    families = {name: _family(study, name, values) for name in study.references}
    return [
        _row(study, arm, families[arm.against or study.control], values, diverged or {}, what)
        for arm in study.arms
    ]


def _family(study: Study, reference: str, values: Values) -> Comparison | None:
    """Returns the comparison of a reference with its arms, where they have numbers; else None."""
    names = [arm.name for arm in study.arms if (arm.against or study.control) == reference]
    runs = {name: list(values[name].values()) for name in (reference, *names) if values.get(name)}
    if reference not in runs or len(runs) < 2:
        return None
    return Comparison(runs, reference, Question(margin=study.measure.margin))


def _row(
    study: Study,
    arm: Arm,
    family: Comparison | None,
    values: Values,
    diverged: Mapping[str, int],
    what: str,
) -> ArmRow:
    reference, measure = arm.against or study.control, study.measure
    runs = (len(values.get(arm.name, ())), len(values.get(reference, ())))
    lost = worse(measure) if diverged.get(arm.name, 0) > max(1, runs[0]) else ""
    limits: dict[str, Any] = dict.fromkeys(("mean", "low", "high", "equal_low", "equal_high"))
    if family is not None and arm.name in family.runs:
        found = family.answer(arm.name)
        limits = {name: getattr(found, name) for name in limits}
    return ArmRow(
        arm.name, reference, arm.expects, **limits, runs=runs, margin=measure.margin, lost=lost,
        what=what,
    )  # fmt: skip


def worse(measure: Measure) -> str:
    """Returns the side on which a diverged training counts."""
    return "higher" if measure.better == "lower" else "lower"


def as_json(row: ArmRow) -> dict[str, Any]:
    """Returns the row's fields with rounded numbers; infinite ends of intervals become None."""
    return {
        name: _rounded(value) if isinstance(value, float) else value
        for name, value in vars(row).items()
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
