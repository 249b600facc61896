"""Runs with losses that a test chooses, as the report has them after loading."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from softmap.report.answers import Question
from softmap.report.family import Family
from softmap.report.load import Budget, FinishedTrial, Run


def run(losses, tokens, control="control", **info) -> Run:
    """``losses``: by label, one list per run with its loss at each budget."""
    trials = {
        label: {seed: _trial(label, seed, row, tokens) for seed, row in enumerate(rows)}
        for label, rows in losses.items()
    }
    most = max(len(rows) for rows in losses.values())
    info = {"control": control, "variants": list(losses), "seeds": list(range(most)), **info}
    return Run(Path("here"), info, trials, [])


def family(losses, tokens, **question) -> Family:
    return Family(run(losses, tokens), Question(**question))


def _trial(label, seed, row, tokens) -> FinishedTrial:
    budgets = [
        Budget(int(t), t / 100.0, 9.0 * t, float(y), np.full((4, 8), y))
        for t, y in zip(tokens, row, strict=True)
    ]
    return FinishedTrial(label, seed, {"tokens_per_second": 100.0}, budgets, [], None)
