"""Pooling: the check errs as often as it says, sees what it says, and lets the odd one out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from softmap.report.pooling import LEVEL, check, visible
from softmap.report.spread import PRIOR, Spreads


def normal(seed, sizes, sds):
    random = np.random.default_rng(seed)
    pairs = zip(sizes, sds, strict=True)
    return {f"v{i}": random.normal(0, sd, n) for i, (n, sd) in enumerate(pairs)}


def test_variances_by_hand():
    runs = {"a": [1.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [7.0]}
    found = Spreads(runs, check(runs))
    # Variances 2 and 1, degrees of freedom 1 and 2: pooled 4/3, the weight of one's own 1/2, 2/3.
    assert (found.pooled.variance, found.pooled.df) == (pytest.approx(4 / 3), 3)
    assert PRIOR == 1
    assert found.variance("a") == pytest.approx(1 / 2 * 4 / 3 + 1 / 2 * 2)
    assert found.variance("b") == pytest.approx(1 / 3 * 4 / 3 + 2 / 3 * 1)
    assert found.variance("c") == pytest.approx(4 / 3)


def test_satterthwaite_by_hand():
    runs = {"a": [1.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [7.0]}
    spreads = Spreads(runs, check(runs))
    error = spreads.error({"b": 3, "c": 1})
    # b is 1/3 pooled (of which a has 1/3, b 2/3) and 2/3 its own, over 3 runs; c is pooled, over 1.
    a, b = (1 / 3 * 1 / 3) / 3 + 1 / 3, (1 / 3 * 2 / 3 + 2 / 3) / 3 + 2 / 3
    assert error.variance == pytest.approx(2 * a + b)
    x, y = a * spreads.variance("a"), b * spreads.variance("b")
    assert error.df == pytest.approx((x + y) ** 2 / (x * x / 1 + y * y / 2))


def test_two_variants_alone_give_student_s_degrees_of_freedom():
    runs = {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    error = Spreads(runs, check(runs)).error({"a": 3, "b": 3})
    assert (error.variance, error.df) == (pytest.approx(2 / 3), pytest.approx(4))


def test_with_many_runs_it_is_bartlett_s_test():
    runs = normal(0, [40, 30, 35], [1, 1.3, 1.1])
    assert check(runs).p == pytest.approx(stats.bartlett(*runs.values()).pvalue, abs=0.02)


@pytest.mark.parametrize("sizes", [[2] * 7, [5, 2, 2, 2], [3, 3]])
def test_equal_spreads_are_rejected_as_often_as_stated(sizes):
    seen = [check(normal(k, sizes, [1] * len(sizes))).p < LEVEL for k in range(1500)]
    assert np.mean(seen) == pytest.approx(LEVEL, abs=0.017)


@pytest.mark.parametrize("sizes", [[5] * 6, [3] * 4])
def test_what_it_can_see_is_seen_in_four_of_five(sizes):
    ratio = visible(tuple(n - 1 for n in sizes))
    odd = len(sizes) // 2
    sds = [ratio if i == odd else 1.0 for i in range(len(sizes))]
    checks = [check(normal(k, sizes, sds)) for k in range(1000)]
    assert np.mean([c.p < LEVEL for c in checks]) == pytest.approx(0.8, abs=0.05)
    named = [c.apart == (f"v{odd}",) for c in checks if c.apart]
    assert np.mean(named) > 0.7


def test_two_runs_each_see_next_to_nothing():
    assert visible((1,) * 7) > 15  # and the page says so


@pytest.mark.parametrize("runs", [{"a": [1.0, 2.0], "b": [3.0]}, {"a": [1.0]}])
def test_nothing_to_check(runs):
    assert (check(runs).p, check(runs).apart) == (None, ())
