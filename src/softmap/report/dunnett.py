"""Critical values for several comparisons with one control (Dunnett 1955), by quadrature.

Comparison i has the statistic T[i] = (Z[i] - Z[0]) / s: numerators of unit variance that share the
control's error, over one estimated standard deviation s with ``df`` degrees of freedom. They
correlate by products, rho[i,j] = b[i] b[j] with b[i]^2 = v[0] / (v[0] + v[i]), v the variances of
the means (for one spread b[i]^2 = n[i] / (n[0] + n[i])). So the probability that all stay within c
is an integral over the shared error u and over s:

    P(c) = E_s E_u prod_i [ Phi((c s + b[i] u) / r[i]) - Phi((-c s + b[i] u) / r[i]) ],
    r[i] = sqrt(1 - b[i]^2),  u ~ N(0, 1),  s^2 ~ chi^2(df) / df

Both integrands are smooth and fall to zero, so a plain sum over an even grid is exact to about
1e-9. ``scipy.stats.dunnett`` integrates the same function by random sampling, whose noise would
move verdicts at the edge from one call to the next, and it takes samples only, so that it
cannot plan. ``tests/report/test_dunnett.py`` holds the two together.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import exp, floor, log

import numpy as np
from scipy import optimize, stats
from scipy.special import ndtr

from softmap.report.stats import Array

GRID = 0.05  # of log df

# Evenly spaced nodes for the control's shared error: beyond 8.5 a normal has 1e-17 left.
_U = np.linspace(-8.5, 8.5, 137)
_U_WEIGHTS = np.exp(-0.5 * _U**2) * (_U[1] - _U[0]) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=4096)
def critical(
    correlations: tuple[float, ...], df: float, level: float = 0.95, sides: int = 2
) -> float:
    """Returns c with P(all \\|T[i]\\| <= c) = level, or with one side P(all T[i] <= c) = level.

    Args:
        correlations: b[i] of every comparison, in [0, 1); a single one gives Student's quantile.
        df: degrees of freedom of the standard deviation; infinity is allowed.
        level: the family's confidence, in (0, 1).
        sides: 2 for intervals, 1 for a bound.
    """
    tail = (1 - level) / sides
    low = float(stats.t.isf(tail, df))  # of one comparison
    high = float(stats.t.isf(tail / len(correlations), df))  # Bonferroni's, always enough
    if high <= low * (1 + 1e-12):
        return low
    gap = lambda c: probability(c, correlations, df, sides) - level  # noqa: E731
    return float(optimize.brentq(gap, 0.999 * low, 1.001 * high, xtol=1e-7))


def between(correlations: tuple[float, ...], df: float, level: float, sides: int = 2) -> float:
    """Returns [`critical`][] for any df, to 1e-4, interpolated between those of a fixed grid, which
    are cached.
    """
    df = min(max(df, 1.0), 1e6)
    low = exp(GRID * floor(log(df) / GRID))
    high = low * exp(GRID)
    share = (1 / low - 1 / df) / (1 / low - 1 / high)  # log c is nearly straight over 1 / df
    ends = [critical(correlations, end, level, sides) for end in (low, high)]
    return ends[0] ** (1 - share) * ends[1] ** share


def probability(c: float, correlations: tuple[float, ...], df: float, sides: int = 2) -> float:
    """Returns P(all \\|T[i]\\| <= c), or P(all T[i] <= c) with one side."""
    spread, weights = spread_nodes(df)
    inside = np.ones((len(spread), len(_U)))
    for b, times in Counter(correlations).items():
        rest = np.sqrt(1 - b * b)
        reach = np.subtract.outer(c * spread, -b * _U) / rest
        one = ndtr(reach)
        if sides == 2:
            one = one - ndtr(reach - 2 * c * spread[:, None] / rest)
        inside *= one**times
    return float(weights @ inside @ _U_WEIGHTS)


def correlation(control: float, variant: float) -> float:
    """Returns b of one comparison from the variances of the means (or 1 / runs), rounded so that
    equal ones share a cache entry.
    """
    return round(float(np.sqrt(control / (control + variant))), 9)


@lru_cache(maxsize=1024)
def spread_nodes(df: float) -> tuple[Array, Array]:
    """Returns nodes and weights for s = sqrt(chi^2(df) / df), evenly spaced in log s."""
    if df > 1e6:
        return np.ones(1), np.ones(1)
    ends = stats.chi2.ppf([1e-12, 1 - 1e-15], df) / df
    log_s = np.linspace(0.5 * np.log(ends[0]), 0.5 * np.log(ends[1]), 161)
    squares = np.exp(2 * log_s) * df
    weights = 2 * squares * stats.chi2.pdf(squares, df) * (log_s[1] - log_s[0])
    return np.exp(log_s), weights / weights.sum()
