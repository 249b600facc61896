"""What studies read off runs, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from softmap.claims._bases import SMALL
from softmap.claims._claim import COMPUTE, TOKENS, Arm, Asked, Measure, Timed, Trained
from softmap.claims._rules import CONTRADICTED, NOT_RESOLVED, REPRODUCED, of_row
from softmap.ledger.asked import parts
from softmap.ledger.judge import differences
from softmap.ledger.timed import _row as timed_row
from softmap.ledger.trained import _picture, _ratio
from softmap.ledger.training import curve

TOKENS_N = [1000, 2000, 4000, 8000]


def curves(at: dict[str, list[list[float]]], flops: dict[str, float]) -> Any:
    """Runs by arm, each with its loss at every budget."""
    return {
        name: {
            seed: curve(name, seed, {
                "flops_per_token": flops.get(name, 1.0),
                "budgets": [
                    {"tokens": t, "seconds": 1.0, "flops": 1.0, "loss": y}
                    for t, y in zip(TOKENS_N, losses, strict=True)
                ],
            })
            for seed, losses in enumerate(runs)
        }
        for name, runs in at.items()
    }  # fmt: skip


def line(start: float, by: float = 0.0) -> list[float]:
    """A nat a doubling."""
    return [start - n + by for n in range(4)]


def rows(study: Trained, found: Any) -> list[Any]:
    values = {n: {s: t.budgets[-1].loss for s, t in own.items()} for n, own in found.items()}
    return [_ratio(study, row, found) for row in differences(study, values)]


NOISE = (-0.01, 0.0, 0.01)


def test_a_nat_a_doubling_ahead_needs_half_the_tokens() -> None:
    study = Trained(TOKENS, (Arm("b", "lower"),), control="a", reads="tokens")
    found = curves({"a": [line(9, e) for e in NOISE], "b": [line(8, e) for e in NOISE]}, {})
    (row,) = rows(study, found)
    assert row.mean == pytest.approx(0.5) and row.low < 0.5 < row.high < 1
    assert of_row(row) == REPRODUCED


def test_compute_counts_what_a_token_costs() -> None:
    study = Trained(COMPUTE, (Arm("b", "lower"),), control="a", reads="compute")
    at = {"a": [line(9, e) for e in NOISE], "b": [line(8, e) for e in NOISE]}
    (row,) = rows(study, curves(at, {"b": 3.0}))  # half the tokens at three times the price
    assert row.mean == pytest.approx(1.5)
    assert of_row(row) == CONTRADICTED


@pytest.mark.parametrize(
    ("start", "low", "high", "word"),
    [(5.0, 0.0, 0.125, REPRODUCED), (13.0, 8.0, math.inf, CONTRADICTED)],
)
def test_a_ratio_beyond_the_curves_lies_at_their_end(
    start: float, low: float, high: float, word: str
) -> None:
    study = Trained(TOKENS, (Arm("b", "lower"),), control="a", reads="tokens")
    at = {"a": [line(9, e) for e in NOISE], "b": [line(start, e) for e in NOISE]}
    (row,) = rows(study, curves(at, {}))
    assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    assert of_row(row) == word


def test_wide_curves_leave_both_ends_open() -> None:
    study = Trained(TOKENS, (Arm("b", "lower"),), control="a", reads="tokens")
    wide = (-9.0, 0.0, 9.0)
    at = {"a": [line(9, e) for e in wide], "b": [line(9, e) for e in wide]}
    (row,) = rows(study, curves(at, {}))
    assert (row.low, row.high) == (0.0, math.inf)
    assert of_row(row) == NOT_RESOLVED


def test_the_curve_is_the_loss_minus_the_controls() -> None:
    study = Trained(TOKENS, (Arm("b"),), control="a")
    found = curves({"a": [line(9), line(9, 0.5)], "b": [line(8)]}, {})
    picture = _picture(study, found)
    assert picture is not None
    values = {(p["variant"], p["x"]): p["value"] for p in picture["points"]}
    assert values["a", 1000] == 0 and values["b", 8000] == -1.25


def test_speed_is_paired_within_a_process() -> None:
    study = Timed(Measure("Speed", "x", 0.1, "higher"), (Arm("b", "at least"), Arm("c")))
    ratios = {0: 0.9, 1: 1.0, 2: 1.1}
    row = timed_row(study, "b", "at least", {"b": ratios})
    logs = np.log(list(ratios.values()))
    half = stats.t.isf((1 - 0.95**0.5) / 2, 2) * logs.std(ddof=1) / 3**0.5  # Sidak's, for two arms
    assert row.mean == pytest.approx(np.exp(logs.mean()))
    assert (row.low, row.high) == pytest.approx(
        tuple(np.exp([logs.mean() - half, logs.mean() + half]))
    )
    assert row.runs == (3, 3) and row.zero == 1
    assert timed_row(study, "b", "at least", {"b": {0: 2.0}}).low is None


def cell(measure: str, at: Any, **means: list[float]) -> dict[str, Any]:
    models = {
        name: {
            "mean": float(np.mean(runs)),
            "runs": {
                ("run" if n == 0 else f"run.{n + 1}"): {"mean": x} for n, x in enumerate(runs)
            },
        }
        for name, runs in means.items()
    }
    return {"measure": measure, "at": at, "models": models}


CELLS = [
    cell("loss", None, a=[2.0, 2.1], b=[1.0, 1.1]),
    cell("other", None, a=[0.0], b=[0.0]),
    cell("loss", {"length": 32}, a=[3.0, 3.1], b=[3.0, 3.1]),
    cell("loss", {"length": 512}, a=[4.0, 4.1], b=[2.0, 2.1]),
]


def asked(at: Any) -> Any:
    study = Asked(
        Measure("Loss"), (Arm("b", "lower"),), "a", SMALL, suite="length", reads="loss", at=at
    )
    return parts(study, {"cells": CELLS}, {"a": [0, 3], "b": [0, 1]}, {})


def test_the_headline_the_largest_condition_or_each() -> None:
    (headline,) = asked("")
    assert headline.values == {"a": {0: 2.0, 3: 2.1}, "b": {0: 1.0, 1: 1.1}}
    (last,) = asked("last")
    assert last.rows[0].mean == pytest.approx(-2.0) and last.rows[0].name == "b"
    each = asked("each")
    assert [one.rows[0].name for one in each] == ["b at length 32", "b at length 512"]
    assert headline.curve is not None and headline.curve["log"]
    assert [p["value"] for p in headline.curve["points"]] == [3.05, 3.05, 4.05, 2.05]
