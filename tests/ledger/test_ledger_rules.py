"""A claim's rule, on made-up runs on both sides of each of its lines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from softmap.claims._claim import Arm, Measure, Trained
from softmap.claims._rules import (
    CONTRADICTED,
    NO_VERDICT,
    NOT_RESOLVED,
    NOT_SEEN,
    REPRODUCED,
    ArmRow,
    as_claimed,
    of_row,
)
from softmap.ledger.judge import differences
from softmap.ledger.table import effect

# Five runs each, so alike that an interval is a tenth of the margin; and so wide that it is ten.
QUIET, LOUD = [-2e-4, -1e-4, 0.0, 1e-4, 2e-4], [-0.1, -0.05, 0.0, 0.05, 0.1]


def row(expects: str, by: float, spread: list[float] = QUIET, margin: float = 0.01) -> ArmRow:
    """Of an arm whose runs are higher than the control's ``by`` so much."""
    study = Trained(Measure("Loss", margin=margin), (Arm("b", expects),), control="a")  # type: ignore[arg-type]
    values = {
        "a": dict(enumerate(2.0 + x for x in spread)),
        "b": dict(enumerate(2.0 + by + x for x in spread)),
    }
    (found,) = differences(study, values)
    return found


@pytest.mark.parametrize(
    ("expects", "by", "word"),
    [
        # a difference beyond the margin, one that is resolved but within, none, and the other side
        ("lower", -0.02, REPRODUCED), ("lower", -0.005, REPRODUCED), ("lower", 0.0, NOT_SEEN),
        ("lower", 0.005, NOT_SEEN), ("lower", 0.02, CONTRADICTED),
        ("higher", 0.02, REPRODUCED), ("higher", 0.0, NOT_SEEN), ("higher", -0.02, CONTRADICTED),
        ("equal", 0.0, REPRODUCED), ("equal", 0.009, REPRODUCED), ("equal", 0.011, CONTRADICTED),
        ("equal", -0.011, CONTRADICTED),
        ("at most", -0.5, REPRODUCED), ("at most", 0.009, REPRODUCED),
        ("at most", 0.011, CONTRADICTED),
        ("at least", 0.5, REPRODUCED), ("at least", -0.009, REPRODUCED),
        ("at least", -0.011, CONTRADICTED),
    ],
)  # fmt: skip
def test_each_line_has_two_sides(expects: str, by: float, word: str) -> None:
    assert of_row(row(expects, by)) == word


@pytest.mark.parametrize("expects", ["lower", "higher", "equal", "at most", "at least"])
def test_wide_runs_resolve_nothing_near_the_lines_and_all_things_far_from_them(
    expects: str,
) -> None:
    assert of_row(row(expects, 0.0, LOUD)) == NOT_RESOLVED
    far = {"lower": -1.0, "at most": -1.0, "equal": 0.0}.get(expects, 1.0)
    assert of_row(row(expects, far, LOUD, margin=1.0 if expects == "equal" else 0.01)) == REPRODUCED
    wrong = {"lower": 1.0, "at most": 1.0, "equal": 1.0}.get(expects, -1.0)
    assert of_row(row(expects, wrong, LOUD)) == CONTRADICTED


def test_one_run_of_an_arm_gives_no_verdict() -> None:
    study = Trained(Measure("Loss"), (Arm("b", "lower"), Arm("c", "lower")), control="a")
    runs = {"a": {0: 2.0, 1: 2.01, 2: 2.02}, "b": {0: 1.0}, "c": {0: 1.0, 1: 1.01}}
    one, two = differences(study, runs)
    assert one.low is not None  # the pool has a spread, and still
    assert (of_row(one), of_row(two)) == (NO_VERDICT, REPRODUCED)
    assert as_claimed([one, two]).word == NO_VERDICT
    assert "two runs of each arm" in as_claimed([one, two]).said


def test_a_row_most_of_whose_trainings_diverged_counts_as_worse() -> None:
    study = Trained(Measure("Loss"), (Arm("b", "higher"), Arm("c", "at most")), control="a")
    runs: dict[str, Any] = {"a": {0: 2.0, 1: 2.01}, "b": {}, "c": {0: 2.0, 1: 2.01, 2: 2.0}}
    b, c = differences(study, runs, {"b": 5, "c": 2})
    assert (b.lost, of_row(b)) == ("higher", REPRODUCED)
    assert c.lost == ""  # two of five: it has a mean
    assert of_row(dataclasses.replace(b, expects="at most")) == CONTRADICTED
    shares = dataclasses.replace(study, measure=Measure("Right", "share", better="higher"))
    assert differences(shares, runs, {"b": 5})[0].lost == "lower"


def test_arms_are_compared_with_their_own_reference() -> None:
    arms = (Arm("b"), Arm("c", "lower", against="b"), Arm("c", "lower"))
    study = Trained(Measure("Loss"), arms, control="a")
    at = {"a": 2.0, "b": 1.0, "c": 1.5}
    rows = differences(study, {n: dict(enumerate(y + x for x in QUIET)) for n, y in at.items()})
    found = {(one.arm, one.against): one for one in rows}
    assert found["c", "b"].mean == pytest.approx(0.5)
    assert found["c", "a"].mean == pytest.approx(-0.5)
    assert (of_row(found["c", "b"]), of_row(found["c", "a"])) == (CONTRADICTED, REPRODUCED)
    assert [one.arm for one in rows] == ["b", "c", "c"]
    assert as_claimed(rows).said == "1 of 2 rows are as claimed; contradicted: c beside b."


@pytest.mark.parametrize(
    ("by", "word", "said"),
    [
        ((-0.02, -0.02), REPRODUCED, "2 of 2 rows are as claimed."),
        ((-0.02, 0.02), CONTRADICTED, "1 of 2 rows are as claimed; contradicted: b."),
        ((-0.02, 0.0), NOT_SEEN, "not seen at this scale: b"),
        ((0.0, 0.02), CONTRADICTED, "0 of 2 rows are as claimed; contradicted: b; not seen"),
    ],
)
def test_the_worst_row_speaks_for_all(by: tuple[float, ...], word: str, said: str) -> None:
    found = as_claimed([row("lower", one) for one in by])
    assert found.word == word and said in found.said


def test_rows_without_an_expectation_count_for_nothing() -> None:
    found = as_claimed([row("lower", -0.02), row("", 0.02)])
    assert (found.word, found.said) == (REPRODUCED, "b was expected lower than a: reproduced.")
    assert as_claimed([row("", 0.02)]).word == NO_VERDICT
    wide = as_claimed([row("lower", -0.02), row("lower", 0.0, LOUD)])
    assert wide.word == NOT_RESOLVED


def test_ratios_are_judged_around_one() -> None:
    one = ArmRow("b", "a", "at least", 0.95, 0.92, 0.98, 0.93, 0.97, (5, 5), 0.1, zero=1.0)
    assert of_row(one) == REPRODUCED
    assert of_row(dataclasses.replace(one, margin=0.05)) == CONTRADICTED
    assert of_row(dataclasses.replace(one, expects="lower")) == REPRODUCED


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0436, 0.0231, 0.066), "+0.044 [+0.023, +0.066]"),
        ((0.000945, 0.000462, 0.00143), "+0.0009 [+0.0005, +0.0014]"),
        ((0.0000143, -0.0000562, 0.0000848), "+0.000014 [−0.000056, +0.000085]"),
        ((0.0, 0.0, 0.0), "0.000 [0.000, 0.000]"),
        ((15.2, 9.963, 20.5), "+15.2 [+9.963, +20.5]"),
        ((0.002, None, None), "+0.0020"),
    ],
)
def test_small_effects_are_written_with_digits_that_show_them(
    numbers: tuple[float | None, ...], text: str
) -> None:
    found = dict(zip(("mean", "low", "high"), numbers, strict=True)) | {"lost": ""}
    assert effect(found, {"measure": {"unit": "nats"}}) == text
