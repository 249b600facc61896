"""Numbers as text, at their edges."""

from __future__ import annotations

import pytest

from softmap.report import words


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0123, "+0.012"), (-0.0123, "−0.012"), (-0.0004, "0.000")]
)
def test_signed(value, expected):
    assert words.signed(value) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(1_050_000, "", "1.05M"), (999.96, "", "1k"), (12, "", "12"), (412e6, "B", "412\xa0MB")],
)
def test_si(value, unit, expected):
    assert words.si(value, unit) == expected


def test_lists_and_counts():
    assert words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"]) == "a, b and c"
    assert (words.count(1, "seed"), words.count(12, "way")) == ("One seed", "12 ways")


@pytest.mark.parametrize(("seconds", "expected"), [(42, "42\xa0s"), (390, "6.5\xa0min")])
def test_duration(seconds, expected):
    assert words.duration(seconds) == expected


def test_amount_is_never_rounded_to_nothing():
    assert words.amount(-0.00004) == "4.0e-05"
