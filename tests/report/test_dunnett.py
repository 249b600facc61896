"""Dunnett's critical values: printed tables, scipy, and an integration of another kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from softmap.report import dunnett

HALF = 0.5**0.5  # equal numbers of runs: correlations of one half


@pytest.mark.parametrize(
    ("comparisons", "df", "sides", "expected"),
    # Dunnett 1955 (one side) and 1964 (two sides), 95 %.
    [(2, 5, 2, 3.03), (3, 20, 2, 2.54), (6, 10, 2, 3.07), (3, 20, 1, 2.19), (9, 20, 1, 2.60)],
)
def test_printed_tables(comparisons, df, sides, expected):
    found = dunnett.critical((HALF,) * comparisons, df, 0.95, sides)
    assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("df", [1, 2, 9, 1e9])
def test_one_comparison_is_students(df):
    assert dunnett.critical((0.8,), df) == pytest.approx(stats.t.isf(0.025, df), rel=1e-9)


@pytest.mark.parametrize("sizes", [(4, [2, 1, 3]), (1, [2, 2]), (9, [1, 1, 1, 1, 1, 1])])
def test_agrees_with_scipy_where_groups_are_small_and_unequal(sizes):
    random = np.random.default_rng(3)
    control, *groups = (random.normal(size=n) for n in (sizes[0], *sizes[1]))
    theirs = stats.dunnett(*groups, control=control, rng=np.random.default_rng(0))
    b = tuple(dunnett.correlation(1 / sizes[0], 1 / n) for n in sizes[1])
    df = sizes[0] + sum(sizes[1]) - len(sizes[1]) - 1
    ours = [1 - dunnett.probability(abs(t), b, df) for t in theirs.statistic]
    assert ours == pytest.approx(theirs.pvalue, abs=2e-3)


@pytest.mark.parametrize(("c", "b", "df"), [(2.7, (0.6, 0.9), 1), (3.1, (0.5, 0.7), 7)])
def test_agrees_with_the_density_integrated_over_the_box(c, b, df):
    rho = b[0] * b[1]
    density = stats.multivariate_t(shape=[[1, rho], [rho, 1]], df=df).pdf
    box, _ = integrate.dblquad(lambda y, x: density([x, y]), -c, c, -c, c, epsabs=1e-8)
    assert dunnett.probability(c, b, df) == pytest.approx(box, abs=1e-6)


def test_the_same_call_gives_the_same_bits():
    found = {dunnett.critical.__wrapped__((0.6, 0.7, 0.7), 5.0) for _ in range(3)}
    assert len(found) == 1


def test_between_the_grid():
    for df in (1.0, 2.3, 17.77, 250.0):
        exact = dunnett.critical((HALF, HALF, 0.3), df)
        assert dunnett.between((HALF, HALF, 0.3), df, 0.95) == pytest.approx(exact, rel=2e-4)


def test_more_comparisons_need_more():
    values = [dunnett.critical((HALF,) * k, 8) for k in (1, 2, 5, 14)]
    assert values == sorted(values)
    assert values[-1] < stats.t.isf(0.025 / 14, 8)  # but less than Bonferroni
