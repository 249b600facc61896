"""Answers of several models side by side: means over runs, differences, and what may be said.

A run is the unit (docs/statistics.md): the value of a run is its mean over instances, and the runs
of a label are its replicates. With one run of each there is no verdict. The interval over instances
says only how sure a mean is for that very model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softmap.evals.question import Measure, Suite
from softmap.evals.summary import Cell, Key, interval, paired
from softmap.report.answers import Answer, Comparison, Question

Cells = Mapping[Key, Cell]
Found = Mapping[str, Mapping[str, Cells]]  # label, run


def compared(suite: Suite, found: Found, control: str) -> list[dict[str, Any]]:
    """One entry a cell: its measure and conditions, the numbers of every label, the differences
    with the control. Headlines (``at`` None) come first."""
    keys: dict[Key, None] = {}
    for runs in found.values():
        for cells in runs.values():
            keys |= dict.fromkeys(cells)
    measures = {measure.name: measure for measure in suite.measures}
    ordered = sorted(keys, key=lambda key: (key[1] is not None, list(measures).index(key[0])))
    return [_entry(measures[key[0]], key, found, control) for key in ordered]


def _entry(measure: Measure, key: Key, found: Found, control: str) -> dict[str, Any]:
    cells = {
        label: {run: cells[key] for run, cells in runs.items() if key in cells}
        for label, runs in found.items()
    }
    cells = {label: runs for label, runs in cells.items() if runs}
    return {
        "measure": measure.name,
        "at": None if key[1] is None else dict(key[1]),
        "models": {label: _numbers(runs, measure) for label, runs in cells.items()},
        "differences": _differences(cells, control, measure),
    }


def _numbers(runs: Mapping[str, Cell], measure: Measure) -> dict[str, Any]:
    """The mean over runs, its standard error between runs, and every run's own."""
    means = [cell.mean for cell in runs.values()]
    n = len(means)
    stderr = float(np.std(means, ddof=1) / n**0.5) if n > 1 else None
    each = {}
    for run, cell in runs.items():
        limits = interval(cell.items.values(), measure)
        low, high = limits or (None, None)
        each[run] = {"mean": cell.mean, "low": low, "high": high, "items": len(cell.items)}
    return {"mean": float(np.mean(means)), "run_stderr": stderr, "runs": each}


def _differences(
    cells: Mapping[str, Mapping[str, Cell]], control: str, measure: Measure
) -> dict[str, Any]:
    if control not in cells or len(cells) < 2:
        return {}
    order = {control: cells[control], **cells}
    values = {label: [cell.mean for cell in runs.values()] for label, runs in order.items()}
    comparison = Comparison(values, control, Question(margin=measure.margin))
    return {
        label: _answer(answer) | _by_item(cells[label], cells[control])
        for label, answer in comparison.answers().items()
    }


def _answer(answer: Answer) -> dict[str, Any]:
    found = answer.as_dict()
    return {name: found[name] for name in ("mean", "low", "high", "df", "method", "answer")}


def _by_item(mine: Mapping[str, Cell], theirs: Mapping[str, Cell]) -> dict[str, Any]:
    """Of two single models: the interval of their difference over the instances they share."""
    if len(mine) > 1 or len(theirs) > 1:
        return {"items_low": None, "items_high": None}
    (one,), (other,) = mine.values(), theirs.values()
    limits = interval(paired(one, other), Measure("", ""))
    low, high = limits or (None, None)
    return {"items_low": low, "items_high": high}
