"""Every variant against the control: a difference, its simultaneous interval, and one answer.

The model, for the loss y of run r of variant v (averaged over the held-out text)::

    y[v,r] = mu[v] + e[v,r],     e ~ N(0, sigma[v]^2) independent

The difference of means has the variance s[0]^2 / n[0] + s[v]^2 / n[v], with the moderated variances
of [`softmap.report.spread`][] and Satterthwaite's degrees of freedom. The k differences share the
control and are compared with Dunnett's critical value, so that all k intervals hold together at
95 %. Where a variant (or the control) stays apart from the pool, that comparison is Welch's at
Sidak's level for one of k. The text is the same for all runs: the answers hold for it, and say
nothing about other text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Annotated, Any

import numpy as np
from scipy import stats

from softmap.fields import Checked, Range
from softmap.report import dunnett, pooling
from softmap.report.spread import Runs, Spreads, VarianceEstimate

LOWER, HIGHER, EQUAL, UNRESOLVED, UNKNOWN = "lower", "higher", "equal", "unresolved", "unknown"
#: How pages mark an answer.
STATUS = {LOWER: "better", HIGHER: "worse", EQUAL: "equal", UNRESOLVED: "none", UNKNOWN: "none"}


@dataclass(frozen=True)
class Question(Checked):
    """The settings of the answers: level, margin, and the difference to plan for.

    ``level`` of the family of intervals; ``margin`` in nats within which a variant counts as equal;
    ``difference`` in nats that plans are made for, found with probability ``power``.
    """

    level: Annotated[float, Range(low=0.5, below=1)] = 0.95
    margin: Annotated[float, Range(above=0)] = 0.01
    difference: Annotated[float, Range(above=0)] = 0.02
    power: Annotated[float, Range(low=0.5, below=1)] = 0.8


@dataclass(frozen=True)
class Answer:
    """A variant minus the control, in the unit of the losses.

    ``low`` and ``high`` are the simultaneous limits; ``equal_low`` and ``equal_high`` the one-sided
    ones that the two tests for equality use. All are None where no spread is known.
    """

    mean: float
    run_stderr: float | None
    low: float | None
    high: float | None
    equal_low: float | None
    equal_high: float | None
    df: float | None
    method: str | None
    runs: int
    control_runs: int
    answer: str

    @property
    def sign(self) -> int:
        """-1 and +1 where the answer is lower and higher, else 0."""
        return {LOWER: -1, HIGHER: 1}.get(self.answer, 0)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self) | {"sign": self.sign}


class Comparison:
    """Runs of a control and of k variants under one question.

    ``check`` decides which variants share the pooled spread; by default it is made from these runs.
    Derived quantities of the same runs (other budgets, positions, slopes) use the check of their
    final losses, so that one page has one design. ``first`` are the runs of a first stage whose
    spread determined how many were added (Stein's rule); then only their spread may be used.
    ``earlier`` are runs of the same variants in other comparisons: their spread counts, their mean
    does not.
    """

    def __init__(
        self,
        runs: Runs,
        control: str,
        question: Question | None = None,
        check: pooling.PoolingCheck | None = None,
        first: Runs | None = None,
        earlier: Runs | None = None,
    ) -> None:
        self.runs, self.control, self.first = runs, control, first or runs
        self.question, self.earlier = question or Question(), earlier or {}
        self.check = check or pooling.check(self.first, self.earlier)
        self.spreads = Spreads(self.first, self.check, self.earlier)
        self.sizes = {label: len(values) for label, values in runs.items()}
        self.others = [label for label in runs if label != control]

    def answers(self) -> dict[str, Answer]:
        """Returns one answer per variant, in the order of the runs."""
        return {label: self.answer(label) for label in self.others}

    def answer(self, label: str) -> Answer:
        """Returns the answer for one variant, corrected for the comparisons with all of them."""
        mean = float(np.mean(self.runs[label]) - np.mean(self.runs[self.control]))
        sizes = (self.sizes[label], self.sizes[self.control])
        error = self.error(label)
        if error is None:
            return Answer(mean, None, None, None, None, None, None, None, *sizes, UNKNOWN)
        b = self._correlations(label)
        half, bound = (error.stderr * self._critical(label, b, error.df, k) for k in (2, 1))
        limits = (mean - half, mean + half, mean - bound, mean + bound)
        method = "welch" if self._apart(label) else "moderated"
        return Answer(mean, error.stderr, *limits, error.df, method, *sizes, self._word(*limits))

    def error(self, label: str, runs: int = 0, control: int = 0) -> VarianceEstimate | None:
        """Returns the error of one difference, with these numbers of runs or, where they are given,
        with others.
        """
        mine, theirs = runs or self.sizes[label], control or self.sizes[self.control]
        return self.spreads.error({label: mine, self.control: theirs})

    def half_width(self, label: str, runs: int, control: int) -> float | None:
        """Returns half the interval's width as it would be with so many runs of every variant."""
        error = self.error(label, runs, control)
        if error is None:
            return None
        b = (dunnett.correlation(1 / control, 1 / runs),) * len(self.others)
        return error.stderr * self._critical(label, b, error.df, 2)

    def p(self, label: str) -> float | None:
        """Returns the probability that any difference is as large as this one if no variant
        differs.
        """
        error = self.error(label)
        if error is None:
            return None
        t = abs(self.answer(label).mean) / error.stderr
        if self._apart(label):
            return float(1 - (1 - 2 * stats.t.sf(t, error.df)) ** len(self.others))
        return max(0.0, 1 - dunnett.probability(t, self._correlations(label), error.df))

    def _critical(self, label: str, b: tuple[float, ...], df: float, sides: int) -> float:
        """Returns Dunnett's critical value, or Sidak's where the comparison has an error of its
        own.
        """
        level = self.question.level
        if self._apart(label):
            return float(stats.t.isf((1 - level ** (1 / len(b))) / sides, df))
        return dunnett.between(b, df, level, sides)

    def _apart(self, label: str) -> bool:
        return bool(self.spreads.apart & {label, self.control})

    def _correlations(self, label: str) -> tuple[float, ...]:
        """Returns correlations from the numbers of runs; variants that stay apart count like
        this one.
        """
        n0 = self.sizes[self.control]
        sizes = [self.sizes[label if v in self.spreads.apart else v] for v in self.others]
        return tuple(dunnett.correlation(1 / n0, 1 / n) for n in sizes)

    def _word(self, low: float, high: float, equal_low: float, equal_high: float) -> str:
        if high < 0 or low > 0:
            return LOWER if high < 0 else HIGHER
        margin = self.question.margin
        return EQUAL if -margin < equal_low and equal_high < margin else UNRESOLVED


def finite(value: float) -> float | None:
    """Returns the value, or None where it is infinite or NaN, which JSON does not have."""
    return value if -inf < value < inf else None
