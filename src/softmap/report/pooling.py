"""Is one spread fair for all variants? Bartlett's statistic, at any number of runs.

The likelihood ratio of one variance against one each is

    M = D log (sum d[v] s[v]^2 / D) - sum d[v] log s[v]^2,     D = sum d[v]

Its usual chi^2 limit does not hold for two or three runs, nor do the tests of Levene and of Brown
and Forsythe (both of two runs lie equally far from their median). But under normal runs of equal
spread the distribution of M depends on the numbers of runs alone, so it is drawn here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import Any

import numpy as np

from softmap.report.stats import Array

Squares = dict[str, tuple[float, int]]

LEVEL = 0.05
DRAWS = 20_000


@dataclass(frozen=True)
class PoolingCheck:
    """What the runs say about one spread for all variants.

    ``p`` is the probability of spreads at least this unequal if all are equal; ``visible`` the
    ratio of one variant's standard deviation to the others' that four of five such experiments
    would notice (None: above 100). Both are None where fewer than two variants have replicates.
    ``apart`` are the variants that left the pool.
    """

    p: float | None
    visible: float | None
    apart: tuple[str, ...]


def check(runs: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> PoolingCheck:
    """Returns which variants share one spread: outliers leave the pool until the rest agree.

    The first question errs at ``LEVEL``; each variant that leaves is the one without which the
    others are most alike. ``earlier``: as for [`Spreads`][softmap.report.spread.Spreads].
    """
    found = {v: squares_of(values, (earlier or {}).get(v, ())) for v, values in runs.items()}
    squares = {label: own for label, own in found.items() if own[1]}
    pool, apart = dict(squares), []
    while len(pool) > 1 and _p(pool) < LEVEL:
        odd = min(pool, key=lambda label: _bartlett(_without(pool, label)))
        apart.append(odd)
        pool = _without(pool, odd)
    if len(squares) < 2:
        return PoolingCheck(None, None, ())
    df = tuple(sorted(df for _, df in squares.values()))
    return PoolingCheck(_p(squares), visible(df), tuple(apart))


@lru_cache(maxsize=256)
def visible(df: tuple[int, ...], power: float = 0.8) -> float | None:
    """Returns the ratio of standard deviations that the check notices with this power (None: above
    100).

    One variant with the median number of runs is the wider one.
    """
    threshold = float(np.quantile(_null(df), 1 - LEVEL))
    draws, odd = _draws(df)[:4000], len(df) // 2
    low, high = 0.0, log(100.0)
    for _ in range(24):
        middle = (low + high) / 2
        wider = draws.copy()
        wider[:, odd] *= np.exp(2 * middle)
        seen = np.mean(_statistic(wider, np.array(df)) > threshold)
        low, high = (low, middle) if seen >= power else (middle, high)
    return None if high > log(99.0) else float(np.exp(high))


def squares_of(*groups: Any) -> tuple[float, int]:
    """Returns the sum of squares of each group about its own mean, and the degrees of freedom."""
    total, df = 0.0, 0
    for values in groups:
        if len(values):
            numbers = np.asarray(values, dtype=np.float64)
            total += float(np.sum((numbers - numbers.mean()) ** 2))
            df += len(numbers) - 1
    return total, df


def _without(pool: Squares, label: str) -> Squares:
    return {key: value for key, value in pool.items() if key != label}


def _p(pool: Squares) -> float:
    null = _null(tuple(sorted(df for _, df in pool.values())))
    above = len(null) - np.searchsorted(null, _bartlett(pool) - 1e-12)
    return float((above + 1) / (len(null) + 1))


def _bartlett(pool: Squares) -> float:
    squares = np.array([square for square, _ in pool.values()])
    return float(_statistic(squares[None], np.array([df for _, df in pool.values()]))[0])


def _statistic(squares: Array, df: Array) -> Array:
    """Returns M for rows of sums of squares."""
    squares = np.maximum(squares, 1e-300)
    total = df.sum()
    pooled = np.log(squares.sum(axis=1) / total)
    return np.asarray(total * pooled - np.log(squares / df) @ df)


@lru_cache(maxsize=256)
def _draws(df: tuple[int, ...]) -> Array:
    return np.random.default_rng(0).chisquare(df, (DRAWS, len(df)))


@lru_cache(maxsize=256)
def _null(df: tuple[int, ...]) -> Array:
    return np.sort(_statistic(_draws(df), np.array(df)))
