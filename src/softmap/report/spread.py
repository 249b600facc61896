"""The spread between runs of one variant: partly its own, partly pooled over all variants.

A run is one trained model: a variant and a seed. Two runs of a variant differ by initialisation,
data order and rounding. A variant v with n[v] >= 2 runs has its own variance s[v]^2 with
d[v] = n[v] - 1 degrees of freedom; over all of them the pooled one is sum d[v] s[v]^2 / sum d[v].
Pooling is what makes two or three runs a variant worth anything. But measured spreads differ by
factors of 1.2 to 2.5, and with plain pooling the wider variants are then called different in 8 to
12 % of families instead of 5. So each variant's variance is moderated (Smyth 2004)::

    (PRIOR pooled + d[v] s[v]^2) / (PRIOR + d[v])

A single run takes the pool's, two runs count half for themselves, and with many a variant stands on
its own. ``PRIOR`` = 1 holds the promised rates over spreads as measured, and widens intervals where
all spreads are equal by 6 % with five runs and by 20 % with two (docs/statistics.md). Each such
variance is a sum of independent own ones, which is what Satterthwaite's degrees of freedom need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from softmap.report.pooling import PoolingCheck, squares_of

PRIOR = 1.0
Runs = Mapping[str, Any]  # label to one number for each run: a sequence or an array


@dataclass(frozen=True)
class VarianceEstimate:
    """A variance of a difference (or of a mean) with its degrees of freedom."""

    variance: float
    df: float

    @property
    def stderr(self) -> float:
        """The square root of the variance."""
        return sqrt(self.variance)


class Spreads:
    """Variances between runs, from the runs of all variants; see the module for the maths.

    ``check`` names the variants that stay apart: they have their own variance alone, and the pool
    does without them. Variants with the very same losses enter the pool once, since a repetition is
    no replicate. ``earlier`` runs of a variant count about their own mean.
    """

    def __init__(self, runs: Runs, check: PoolingCheck, earlier: Runs | None = None) -> None:
        self.apart = set(check.apart)
        squares = {v: squares_of(y, (earlier or {}).get(v, ())) for v, y in runs.items()}
        self.df = {v: df for v, (_, df) in squares.items()}
        self.own = {v: square / df for v, (square, df) in squares.items() if df}
        once = {tuple(sorted(runs[v])): v for v in reversed(list(self.own)) if v not in self.apart}
        self.pool = {v: self.df[v] for v in once.values()}

    @classmethod
    def planned(cls, sizes: Mapping[str, int]) -> Spreads:
        """Returns the spreads of runs that do not exist yet, all with the variance 1."""
        new = cls({}, PoolingCheck(None, None, ()))
        new.df = {v: n - 1 for v, n in sizes.items()}
        new.own = {v: 1.0 for v, n in sizes.items() if n > 1}
        new.pool = {v: new.df[v] for v in new.own}
        return new

    @property
    def pooled(self) -> VarianceEstimate | None:
        """The pooled variance; None without a replicate, or where all runs are copies."""
        total = sum(self.pool.values())
        variance = sum(d * self.own[v] for v, d in self.pool.items()) / total if total else 0.0
        return VarianceEstimate(variance, total) if variance > 0 else None

    def variance(self, label: str) -> float | None:
        """Returns the moderated variance of a variant's runs, or its own where it is not pooled."""
        weights = self._weights(label)
        return None if weights is None else sum(w * self.own[v] for v, w in weights.items())

    def error(self, sizes: Mapping[str, int]) -> VarianceEstimate | None:
        """Returns the error of a sum or difference of means over ``sizes`` runs of each label.

        Satterthwaite: V = sum a[v] s[v]^2, df = V^2 / sum (a[v] sigma[v]^2)^2 / d[v], with the
        moderated variances for sigma^2, as those of single pairs are too noisy there.
        """
        total: dict[str, float] = {}
        for label, size in sizes.items():
            weights = self._weights(label)
            if weights is None:
                return None
            for v, w in weights.items():
                total[v] = total.get(v, 0.0) + w / size
        variance = sum(a * self.own[v] for v, a in total.items())
        smooth = {v: a * (self.variance(v) or 0.0) for v, a in total.items()}
        if variance <= 0:
            return None
        df = sum(smooth.values()) ** 2 / sum(x * x / self.df[v] for v, x in smooth.items())
        return VarianceEstimate(variance, df)

    def _weights(self, label: str) -> dict[str, float] | None:
        """Returns the weights of own variances whose sum is the moderated variance of ``label``."""
        if label in self.apart:  # by its final losses; another number may be known of one run
            return {label: 1.0} if label in self.own else None
        if self.pooled is None:
            return None
        mine = self.df[label] / (self.df[label] + PRIOR)
        total = sum(self.pool.values())
        weights = {v: (1 - mine) * d / total for v, d in self.pool.items()}
        if mine:
            weights[label] = weights.get(label, 0.0) + mine
        return weights
