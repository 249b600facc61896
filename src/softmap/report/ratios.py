"""Tokens, FLOPs and time at equal loss, with intervals that agree with the verdict.

Of a ratio R (the variant's tokens over the control's, at the same loss) the runs say

    D(R) = L_variant(R T) - L_control(T)      for R <= 1: the loss that the control ends with
    D(R) = L_variant(T) - L_control(T / R)    for R >= 1: the loss that the variant ends with

T the tokens of both, each run's curve straight over log tokens between its decayed points. D falls
with R, and at R = 1 it is the difference of final losses. The estimate is the root of D, the
interval every R whose D has an interval that holds 0 (the inversion of a test, as Fieller's). So
it holds 1 exactly when the difference is not resolved. Both ends can lie beyond the curves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from math import exp, hypot, log
from typing import Any

import numpy as np

from softmap.report.answers import Answer
from softmap.report.family import Family, at
from softmap.report.stats import Array

STEPS = 16  # between two neighbouring budgets


@dataclass(frozen=True)
class Ratio:
    """A ratio at equal loss; below 1 the variant needs less.

    ``value`` is None outside the curves; then ``bound`` is ``"<"`` or ``">"`` and ``limit`` the
    ratio at that end. ``low`` and ``high`` are None where that end of the interval lies outside,
    and where no interval is known (``interval`` is False).
    """

    value: float | None
    low: float | None
    high: float | None
    bound: str | None
    limit: float | None
    interval: bool

    def times(self, factor: float, error: float = 0.0) -> dict[str, Any]:
        """Returns the ratio of another cost, which is ``factor`` times the control's for each
        token.

        Args:
            error: half-width of the factor's own interval, of its logarithm. Distances of
                independent limits add up in squares (Zou and Donner 2008), by themselves where
                there is no estimate.
        """

        def cost(end: float | None, side: int = 0) -> float | None:
            if end is None:
                return None
            distance = abs(log(end / self.value)) if self.value else 0.0
            return end * factor * exp(side * (hypot(distance, error) - distance))

        low, high = cost(self.low, -1), cost(self.high, 1)
        scaled = {"value": cost(self.value), "low": low, "high": high, "limit": cost(self.limit)}
        return asdict(self) | scaled


def ratios(family: Family) -> dict[str, Ratio]:
    """Returns the ratio of tokens for each variant; nothing with a single budget."""
    tokens_N = family.tokens
    if len(tokens_N) < 2:
        return {}
    x = np.log(tokens_N / tokens_N[-1])
    grid = np.concatenate([np.linspace(a, b, STEPS, endpoint=False) for a, b in pairwise(x)])
    places = np.exp(np.concatenate([grid, [0.0], -grid[::-1]]))
    found = [_answers(family, ratio) for ratio in places]
    return {label: _ratio(places, [answers[label] for answers in found]) for label in found[0]}


def _answers(family: Family, ratio: float) -> dict[str, Answer]:
    """Returns the difference of every variant at one ratio of tokens."""
    tokens_N = family.tokens
    last = tokens_N[-1]

    def loss(label: str, losses_RN: Array) -> Array:
        own = last * min(ratio, 1.0) if label != family.control else last / max(ratio, 1.0)
        return at(own, tokens_N, losses_RN)

    return family.compare(family.each(loss)).answers()


def _ratio(places: Array, answers: list[Answer]) -> Ratio:
    means = [answer.mean for answer in answers]
    value = _root(places, means)
    known = answers[0].low is not None
    lows, highs = ([getattr(a, end) for a in answers] for end in ("low", "high"))
    low, high = (_root(places, y) if known else None for y in (lows, highs))
    if value is None:
        bound, limit = ("<", places[0]) if means[0] <= 0 else (">", places[-1])
        return Ratio(None, low, high, bound, float(limit), known)
    return Ratio(value, low, high, None, None, known)


def _root(places: Array, values: list[float]) -> float | None:
    """Returns where the values first fall to 0, linear in the logarithm; None outside of the
    grid.
    """
    below = np.flatnonzero(np.asarray(values) <= 0)
    if len(below) == 0 or below[0] == 0:
        return None
    i = int(below[0])
    share = values[i - 1] / (values[i - 1] - values[i])
    x = np.log(places)
    return float(np.exp(x[i - 1] + share * (x[i] - x[i - 1])))
