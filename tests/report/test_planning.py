"""Plans: by hand, against scipy's noncentral t, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from softmap.errors import SoftmapError
from softmap.report import planning
from softmap.report.answers import Comparison
from softmap.report.planning import fresh


def test_degrees_of_freedom_of_a_plan():
    # Two variants of n runs: half of each variance is its own, so V is the plain pooled one.
    assert fresh(3, 1).df == pytest.approx(4)
    # Between those of the variant's own runs and all runs less all means.
    assert 2 < fresh(3, 6, control=8).df < 6 * 2 + 7
    assert fresh(3, 6, control=8).more(2) == fresh(5, 6, control=10)
    assert planning.power(fresh(1, 3), 0.02, 0.05) < 0.1


@pytest.mark.parametrize("difference", [0.0, 0.02, 0.06])
def test_power_is_that_of_the_noncentral_t(difference):
    design = fresh(4, 3, control=6)
    c, shift = design.critical(), difference / (0.02 * design.scale)
    t = stats.nct(design.df, shift)
    expected = t.sf(c) + t.cdf(-c)
    assert planning.power(design, 0.02, difference) == pytest.approx(expected, abs=1e-7)


def test_the_visible_difference_has_the_wanted_power():
    design = fresh(3, 5)
    seen = planning.visible_difference(design, 0.03)
    assert planning.power(design, 0.03, seen) == pytest.approx(0.8, abs=1e-5)


def test_runs_needed_is_the_first_number_that_is_enough():
    n = planning.runs_needed(0.0013, 0.001)
    assert n == pytest.approx(27, abs=1)  # 2 (1.96 + 0.84)^2 (0.0013 / 0.001)^2 = 26.5, and a t
    assert (
        planning.power(fresh(n), 0.0013, 0.001) >= 0.8 > planning.power(fresh(n - 1), 0.0013, 0.001)
    )
    assert planning.runs_needed(0.0013, 0.001, comparisons=6) > n
    assert planning.runs_needed(0.0013, 0.001, control_ratio=3) < n


def test_more_runs_begin_with_those_that_exist():
    design = fresh(3, 2)
    more = planning.more_runs(design, 0.02, 0.03)
    assert planning.power(design.more(more), 0.02, 0.03) >= 0.8
    assert planning.power(design.more(more - 1), 0.02, 0.03) < 0.8
    assert planning.more_runs(fresh(50, 2), 0.02, 0.03) == 0
    assert planning.more_runs(design, 1.0, 0.001) is None


def test_equality_power_by_simulation():
    design, random = fresh(10, 1), np.random.default_rng(0)
    y = random.normal(0, 0.01, (4000, 2, 10))
    gap = y[:, 1].mean(1) - y[:, 0].mean(1)
    s = np.sqrt(y.var(axis=2, ddof=1).mean(1))
    equal = np.abs(gap) + design.critical(sides=1) * s * design.scale < 0.012
    assert planning.equality_power(design, 0.01, 0.012) == pytest.approx(equal.mean(), abs=0.03)


def test_stein_by_hand():
    # Both have s = 0.01 sqrt(2.5), together 8 df: t = 2.306, 2 (2.306 s / 0.02)^2 = 6.65.
    first = {"a": [0.0, 0.01, 0.02, 0.03, 0.04], "b": [0.1, 0.11, 0.12, 0.13, 0.14]}
    assert planning.stein_runs(Comparison(first, "a"), 0.02) == {"a": 7, "b": 7}
    assert planning.stein_runs(Comparison(first, "a"), 0.2) == {"a": 5, "b": 5}


def stage(random, sizes, sd=0.03):
    return {label: list(random.normal(0, sd, n)) for label, n in sizes.items()}


@pytest.mark.slow
def test_stein_for_several_differences_at_once():
    random, inside, h = np.random.default_rng(1), 0, 0.05
    for _ in range(2000):
        first = stage(random, {"a": 4, "b": 3, "c": 3})
        total = planning.stein_runs(Comparison(first, "a"), h)
        more = stage(random, {v: n - len(first[v]) for v, n in total.items()})
        runs = {v: first[v] + more[v] for v in first}
        found = Comparison(runs, "a", first=first).answers().values()
        assert all(a.high - a.mean <= h * (1 + 1e-9) for a in found)
        inside += all(a.low <= 0 <= a.high for a in found)
    assert inside / 2000 == pytest.approx(0.95, abs=0.0147)


def test_stein_with_a_larger_control_and_a_variant_apart():
    random = np.random.default_rng(2)
    first = stage(random, {"a": 6, "b": 4, "c": 4}) | {"d": [0.0, 1.0, -1.0, 0.5]}
    comparison = Comparison(first, "a")
    total = planning.stein_runs(comparison, 0.05, ratio=2)
    assert comparison.check.apart == ("d",) and total["d"] > 10 * total["b"]
    for v in "bcd":
        assert comparison.half_width(v, total[v], total["a"]) <= 0.05
    assert comparison.half_width("d", total["d"] - 1, total["a"]) > 0.05
    assert planning.stein_runs(comparison, 1e-4) is None
    assert planning.stein_runs(Comparison({"a": [1.0], "b": [2.0]}, "a"), 0.1) is None


def test_a_time_budget_is_spent_near_the_square_root_rule():
    costs = {"control": 10.0, **{f"v{i}": 10.0 for i in range(9)}}
    added = planning.allocate(3000, costs, "control")
    assert sum(n * costs[v] for v, n in added.items()) <= 3000
    assert added["control"] / added["v0"] == pytest.approx(3, abs=0.2)
    assert max(added[f"v{i}"] for i in range(9)) - min(added[f"v{i}"] for i in range(9)) <= 1


def test_a_dear_variant_gets_fewer_runs_and_no_time_gives_none():
    costs = {"control": 1.0, "cheap": 1.0, "dear": 9.0}
    added = planning.allocate(100, costs, "control", {"control": 2, "cheap": 2, "dear": 2})
    assert added["dear"] < added["cheap"] < added["control"] + 3
    assert sum(planning.allocate(0.5, costs, "control").values()) == 0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: planning.runs_needed(0.0, 0.1), "sd: expected a number above 0, found 0"),
        (lambda: planning.runs_needed(1.0, 1e-6), "10,000 runs"),
        (lambda: planning.stein_runs(Comparison({"a": [1.0]}, "a"), 0.0), "half_width: expected"),
    ],
)
def test_bad_plans_are_one_line(call, says):
    with pytest.raises(SoftmapError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
