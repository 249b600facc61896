"""What studies read off runs, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from softmap.claims._bases import SMALL, Base
from softmap.claims._claim import (
    COMPUTE,
    LOSS,
    TOKENS,
    Arm,
    Asked,
    Grafted,
    Learned,
    Measure,
    Scaled,
    Timed,
    Trained,
)
from softmap.claims._rules import CONTRADICTED, NO_VERDICT, NOT_RESOLVED, REPRODUCED, of_row
from softmap.ledger import forecast, grafted
from softmap.ledger.asked import parts
from softmap.ledger.grafted import part as grafted_part
from softmap.ledger.judge import differences
from softmap.ledger.scaled import part as scaled_part
from softmap.ledger.timed import _row as timed_row
from softmap.ledger.trained import _picture, _ratio, needed
from softmap.ledger.training import curve
from softmap.ledger.workspace import Workspace
from softmap.report.load import Budget, FinishedTrial, Run
from softmap.report.scaling.law import Law
from softmap.report.scaling.sweep import sweep

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


def test_a_dry_run_counts_the_fine_tunings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms and plain, each at three peaks and with two seeds; one of the 15 is there."""
    study = Grafted(LOSS, (Arm("diff2", "lower"), Arm("dcmha(rank=1)", "lower")))
    workspace = Workspace(tmp_path, seeds=2, settings={"training.steps": "200"})
    monkeypatch.setattr(forecast, "_step", lambda planned, recipe: 0.5)
    (kept := tmp_path / "graft-small" / "dcmha-rank-1" / "x").mkdir(parents=True)
    (kept / "grafted.json").write_text("{}")
    assert grafted.missing(study, workspace) == 14
    assert list(forecast._grafts([study], workspace)) == [("graft-small", 14, 14 * 200 * 0.5)]


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


def test_conditions_of_the_same_runs_stand_beside_one_another() -> None:
    study = Learned(
        Measure("Fall", margin=0.005, better="higher"), (Arm("successors 16", "higher"),),
        control="successors 1", task="bigram", reads="fall", within="successors",
    )  # fmt: skip
    cells = [
        cell("fall", {"successors": 1}, **{"transformer++": [0.01, 0.02, 0.03]}),
        cell("fall", {"successors": 4}, **{"transformer++": [9.0, 9.0, 9.0]}),
        cell("fall", {"successors": 16}, **{"transformer++": [0.31, 0.32, 0.33]}),
        cell("loss", {"successors": 16}, **{"transformer++": [7.0, 7.0, 7.0]}),
    ]
    (found,) = parts(study, {"cells": cells}, {"transformer++": [0, 1, 2]}, {})
    assert found.values == {
        "successors 1": {0: 0.01, 1: 0.02, 2: 0.03},
        "successors 16": {0: 0.31, 1: 0.32, 2: 0.33},
    }
    (row,) = found.rows
    assert row.mean == pytest.approx(0.3) and row.runs == (3, 3) and of_row(row) == REPRODUCED
    assert [list(runs) for _, runs in needed(study, Workspace(Path("none")))] == [["transformer++"]]


def test_fine_tunings_of_one_model_are_runs_and_diverged_ones_are_counted() -> None:
    study = Grafted(LOSS, (Arm("diff2", "lower"), Arm("dape", "lower")))
    losses = cell("loss", None, plain=[2.0, 2.1, 2.2], diff2=[1.0, 1.1, 1.2], dape=[1.5])
    for found in losses["models"].values():  # named as softmap graft names its models
        found["runs"] = {f"seed{n}": one for n, one in enumerate(found["runs"].values())}
    start = {"label": "diff2", "before": 2.0, "after": 2.25}
    given = {"suites": {"loss": {"cells": [losses]}}, "graft": [start]}
    found = grafted_part(study, given, 3)
    assert found.values["plain"] == {0: 2.0, 1: 2.1, 2: 2.2}
    assert found.diverged == {"dape": 2} and found.notes == [
        "diff2 starts 0.25 nats from the model"
    ]
    assert [of_row(row) for row in found.rows] == [REPRODUCED, CONTRADICTED]
    assert needed(study, Workspace(Path("none"))) == [(SMALL, {"transformer++": 1})]


def test_a_law_with_four_fifths_of_the_parameters_is_found() -> None:
    """The variant's law is the control's at 1.25 times its parameters."""
    sizes = [40e3, 80e3, 160e3, 320e3]
    base = Base("s", "one size")
    study = Scaled(
        Measure("Parameters for equal loss", "x", 0.05), (Arm("v", "lower"), Arm("gone", "lower")),
        control="control", base=base, sizes=(base,),
    )  # fmt: skip
    laws = {"control": Law(1.8, 40.0, 300.0, 0.35, 0.4), "v": Law(1.8, 37.0, 300.0, 0.35, 0.4)}
    found = scaled_part(study, sweep([_size(n, laws) for n in sizes]))
    row, gone = found.rows
    assert row.mean == pytest.approx((37 / 40) ** (1 / 0.35), rel=0.02) and row.runs == (3, 3)
    assert row.low is not None and row.low < row.mean < row.high < 1  # type: ignore[operator]
    assert of_row(row) == REPRODUCED and of_row(gone) == NO_VERDICT
    assert len(found.values) == 8


def _size(parameters: float, laws: dict[str, Law]) -> Run:
    """Three runs of each law at five budgets, which differ by a thousandth of a nat."""
    tokens = [1e5, 2e5, 4e5, 8e5, 1.6e6]
    trials = {
        label: {
            seed: FinishedTrial(
                label, seed,
                {"parameters": int(parameters), "flops_per_token": 6.0 * parameters,
                 "tokens_per_second": 1.0},
                [Budget(d, 1.0, 1.0, 0.0, np.full((4, 1), law.loss(parameters, d) + seed / 1000))
                 for d in tokens], [], None,
            )
            for seed in range(3)
        }
        for label, law in laws.items()
    }  # fmt: skip
    info = {"control": "control", "variants": list(laws), "seeds": [0, 1, 2]}
    return Run(Path(f"{parameters:.0f}"), info, trials, [])
