"""Where a difference is going: its slope over the last budgets, and whether it would cross zero.

For every run the slope of its loss over log2 tokens, by least squares through its last (at most
three) decayed points; then slopes are compared as losses are. A slope is nats a doubling of tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from softmap.report.answers import EQUAL, HIGHER, LOWER, UNKNOWN, Answer
from softmap.report.family import Family
from softmap.report.stats import Array
from softmap.report.words import si

POINTS = 3
REACH = 10.0  # times the tokens: the furthest extrapolation of a straight line

# By the answers on the difference and on its slope; for other pairs the trend is not resolved.
WORDS = {
    (LOWER, LOWER): "ahead, growing",
    (LOWER, HIGHER): "ahead, shrinking",
    (LOWER, EQUAL): "ahead, settled",
    (HIGHER, LOWER): "behind, closing",
    (HIGHER, HIGHER): "behind, growing",
    (HIGHER, EQUAL): "behind, settled",
    (EQUAL, LOWER): "level, but gaining",
    (EQUAL, HIGHER): "level, but losing ground",
    (EQUAL, EQUAL): "level, settled",
    ("unresolved", LOWER): "not resolved, but gaining",
    ("unresolved", HIGHER): "not resolved, but losing ground",
    ("unresolved", EQUAL): "not resolved, settled",
}
ALONE = {
    LOWER: "ahead, trend not resolved",
    HIGHER: "behind, trend not resolved",
    EQUAL: "level, trend not resolved",
    "unresolved": "not resolved",
}


def trends(family: Family, finals: dict[str, Answer]) -> dict[str, dict[str, Any]]:
    """Returns, by variant, ``words``, the slope ``per_doubling`` with its limits, and the
    ``crossing``.

    It is empty with a single budget, and for variants without a spread between runs.
    """
    tokens_N = family.tokens
    if len(tokens_N) < 2:
        return {}
    slopes_R = family.each(lambda _, losses_RN: slopes(tokens_N, losses_RN))
    answers = family.compare(slopes_R).answers()
    return {
        label: _trend(family, label, finals[label], slope, slopes_R)
        for label, slope in answers.items()
        if slope.answer != UNKNOWN and finals[label].answer != UNKNOWN
    }


def slopes(tokens_N: Array, losses_RN: Array) -> Array:
    """Returns the slopes (R,) over the last points, in nats a doubling of tokens."""
    x = np.log2(tokens_N[-POINTS:])
    x = x - x.mean()
    return np.asarray(losses_RN[:, -POINTS:] @ x / (x @ x))


def _trend(
    family: Family, label: str, final: Answer, slope: Answer, slopes_R: dict[str, Array]
) -> dict[str, Any]:
    alone = ALONE[final.answer]
    words = WORDS.get((final.answer, slope.answer), alone)
    crossing = None
    if final.sign * slope.sign < 0:
        crossing = _crossing(family, label, final.mean, slope.mean, slopes_R)
        words += _clause(crossing)
    return {
        "words": words,
        "per_doubling": slope.mean,
        "low": slope.low,
        "high": slope.high,
        "budgets": min(POINTS, len(family.tokens)),
        "crossing": crossing,
    }


def _crossing(
    family: Family, label: str, gap: float, slope: float, slopes_R: dict[str, Array]
) -> dict[str, float | None]:
    """Returns the tokens at which the difference would be zero, with their limits."""
    last = float(family.tokens[-1])
    doublings = np.linspace(0, np.log2(REACH), 61)
    inside = [step for step in doublings if _holds_zero(family, label, slopes_R, step)]
    ends = (inside[0], inside[-1]) if inside else (None, None)
    late = ends[1] is not None and ends[1] < doublings[-1]
    return {
        "tokens": last * 2 ** (-gap / slope) if -gap / slope <= np.log2(REACH) else None,
        "low": None if ends[0] is None else last * 2 ** float(ends[0]),
        "high": last * 2 ** float(ends[1]) if late and ends[1] is not None else None,
    }


def _holds_zero(family: Family, label: str, slopes_R: dict[str, Array], doublings: float) -> bool:
    ahead = {v: final_R + doublings * slopes_R[v] for v, final_R in family.final.items()}
    found = family.compare(ahead).answer(label)
    return found.low is not None and found.high is not None and found.low <= 0 <= found.high


def _clause(crossing: dict[str, float | None]) -> str:
    tokens, low, high = (crossing[key] for key in ("tokens", "low", "high"))
    if tokens is None:
        return f" (would not cross within {REACH:.0f} times the tokens if it went on)"
    between = f"{si(low)} to {si(high)}" if low and high else f"{si(low or tokens)} or later"
    return f" (would cross near {si(tokens)} tokens if it went on; 95%: {between})"
