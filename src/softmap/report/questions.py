"""Answers of several models side by side: means over runs, differences, and what may be said.

A run is the unit (docs/statistics.md): the value of a run is its mean over instances, and the runs
of a label are its replicates. With one run of each there is no verdict. The interval over instances
says only how sure a mean is for that very model.

Everything here is plain data, as a trial's ``answers.json`` and ``softmap eval --json`` have it:

- a suite: ``title``, ``asks``, ``how``, ``measures`` (``name``, ``title``, ``unit``, ``better``,
  ``margin``, ``at``) and ``pictures``;
- an answer: ``measure``, ``at`` (conditions, None: the headline), ``mean`` over so many ``items``
  with the limits ``low`` and ``high``, and, where they are kept, ``values`` by item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from softmap.report.answers import Answer, Comparison, Question
from softmap.report.load import Run

Json = Mapping[str, Any]
Found = Mapping[str, Mapping[str, Sequence[Json]]]  # answers by label and run
_Key = tuple[str, tuple[tuple[str, Any], ...] | None]


def of_run(run: Run) -> dict[str, dict[str, Any]]:
    """Returns, by suite, what was asked of a comparison's models, with ``cells`` as
    [`compared`][] returns them.
    """
    told: dict[str, Json] = {}
    found: dict[str, dict[str, dict[str, Sequence[Json]]]] = {}
    for label in run.labels:
        for seed, trial in sorted(run.trials.get(label, {}).items()):
            for name, suite in trial.answers.items():
                told.setdefault(name, suite)
                runs = found.setdefault(name, {}).setdefault(label, {})
                runs[f"seed{seed}"] = suite["answers"]
    return {
        name: {key: value for key, value in suite.items() if key != "answers"}
        | {"cells": compared(suite, found[name], run.control)}
        for name, suite in told.items()
    }


def compared(suite: Json, found: Found, control: str) -> list[dict[str, Any]]:
    """Returns an entry for each cell: its measure and conditions, the numbers of every label, and
    the differences from the control. Headlines (``at`` None) come first.
    """
    by_key = {
        label: {run: {_key(one): one for one in answers} for run, answers in runs.items()}
        for label, runs in found.items()
    }
    keys: dict[_Key, None] = {}
    for runs in by_key.values():
        for answers in runs.values():
            keys |= dict.fromkeys(answers)
    measures = {one["name"]: one for one in suite["measures"]}
    ordered = sorted(keys, key=lambda key: (key[1] is not None, list(measures).index(key[0])))
    return [_entry(measures[key[0]], key, by_key, control) for key in ordered]


def _key(answer: Json) -> _Key:
    at = answer["at"]
    return answer["measure"], None if at is None else tuple(at.items())


def _entry(
    measure: Json, key: _Key, by_key: Mapping[str, Mapping[str, Any]], control: str
) -> dict[str, Any]:
    cells = {
        label: {run: answers[key] for run, answers in runs.items() if key in answers}
        for label, runs in by_key.items()
    }
    cells = {label: runs for label, runs in cells.items() if runs}
    return {
        "measure": measure["name"],
        "at": None if key[1] is None else dict(key[1]),
        "models": {label: _numbers(runs) for label, runs in cells.items()},
        "differences": _differences(cells, control, measure["margin"]),
    }


def _numbers(runs: Mapping[str, Json]) -> dict[str, Any]:
    """Returns the mean over runs, its standard error between runs, and every run's own numbers."""
    means = [answer["mean"] for answer in runs.values()]
    n = len(means)
    stderr = float(np.std(means, ddof=1) / n**0.5) if n > 1 else None
    kept = ("mean", "low", "high", "items")
    each = {run: {name: answer[name] for name in kept} for run, answer in runs.items()}
    return {"mean": float(np.mean(means)), "run_stderr": stderr, "runs": each}


def _differences(
    cells: Mapping[str, Mapping[str, Json]], control: str, margin: float
) -> dict[str, Any]:
    if control not in cells or len(cells) < 2:
        return {}
    order = {control: cells[control], **cells}
    values = {label: [one["mean"] for one in runs.values()] for label, runs in order.items()}
    comparison = Comparison(values, control, Question(margin=margin))
    return {
        label: _answer(answer) | _by_item(cells[label], cells[control])
        for label, answer in comparison.answers().items()
    }


def _answer(answer: Answer) -> dict[str, Any]:
    found = answer.as_dict()
    return {name: found[name] for name in ("mean", "low", "high", "df", "method", "answer")}


def _by_item(mine: Mapping[str, Json], theirs: Mapping[str, Json]) -> dict[str, Any]:
    """Returns, for two single models, Student's interval of their difference over the instances
    that they share, where values by instance were kept.
    """
    found: dict[str, Any] = {"items_low": None, "items_high": None}
    if len(mine) > 1 or len(theirs) > 1:
        return found
    one, other = (next(iter(runs.values())).get("values") or {} for runs in (mine, theirs))
    shared = np.array([value - other[item] for item, value in one.items() if item in other])
    if (n := len(shared)) > 1:
        half = float(stats.t.ppf(0.975, n - 1) * shared.std(ddof=1) / n**0.5)
        middle = float(shared.mean())
        found = {"items_low": middle - half, "items_high": middle + half}
    return found
