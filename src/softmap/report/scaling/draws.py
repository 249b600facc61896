"""The errors of laws, from fits to simulated sweeps.

A draw takes the held-out windows with replacement, the same for every variant and size, and moves
each cell's mean curve by the error of a mean of its runs: a random sum of the residuals of all runs
(their covariance over the budgets is in it) over the root of the cell's number. Resampling two or
three seeds themselves would say that they spread less than they do. Few degrees of freedom widen
the error by the ratio of Student's quantile to the normal one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import stats

from softmap.report.scaling.law import Law, fit
from softmap.report.scaling.sweep import SizeCell, Sweep
from softmap.report.stats import Array

DRAWS = 400


def laws(sweep: Sweep) -> dict[str, Law]:
    """Returns the law of each variant's mean losses."""
    return {label: _fitted(cells, _means(cells)) for label, cells in sweep.cells.items()}


def drawn(sweep: Sweep, near: dict[str, Law], draws: int = DRAWS) -> Iterator[dict[str, Law]]:
    """Yields the laws of simulated sweeps."""
    residuals_KN = _residuals(sweep)
    wide = float(stats.t.ppf(0.975, sweep.df) / stats.norm.ppf(0.975))
    random = np.random.default_rng(0)
    windows = sweep.largest().losses_RNW.shape[2]
    for _ in range(draws):
        share_W = random.multinomial(windows, np.full(windows, 1 / windows)) / windows
        found = {}
        for label, cells in sweep.cells.items():
            means = [
                _mean(cell, share_W) + wide * _error(cell, residuals_KN, random) for cell in cells
            ]
            found[label] = _fitted(cells, means, near[label])
        yield found


def _residuals(sweep: Sweep) -> list[Array]:
    """Returns the residuals of all repeated runs, each over the root of the degrees of freedom."""
    repeated = [c for cells in sweep.cells.values() for c in cells if c.runs > 1]
    return [row / np.sqrt(sweep.df) for cell in repeated for row in cell.residuals_RN]


def _error(cell: SizeCell, residuals_KN: list[Array], random: np.random.Generator) -> Array:
    """Returns the error (N,) of the mean over the cell's runs; a residual with other budgets is
    interpolated.
    """
    places = np.linspace(0, 1, len(cell.tokens_N))
    total = np.zeros(len(places))
    for row, weight in zip(residuals_KN, random.normal(size=len(residuals_KN)), strict=True):
        total += weight * np.interp(places, np.linspace(0, 1, len(row)), row)
    return total / np.sqrt(cell.runs)


def _mean(cell: SizeCell, share_W: Array) -> Array:
    """Returns the loss (N,) averaged over runs and weighted windows."""
    return np.asarray(cell.losses_RNW.mean(axis=0) @ share_W)


def _means(cells: list[SizeCell]) -> list[Array]:
    return [cell.losses_RNW.mean(axis=(0, 2)) for cell in cells]


def _fitted(cells: list[SizeCell], means: list[Array], near: Law | None = None) -> Law:
    n = np.concatenate([np.full(len(cell.tokens_N), float(cell.parameters)) for cell in cells])
    d = np.concatenate([cell.tokens_N for cell in cells])
    return fit(n, d, np.concatenate(means), near)
