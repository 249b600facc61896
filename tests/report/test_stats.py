"""Intervals and token ratios: hand-computed cases, and coverage by simulation."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

import numpy as np
import pytest

from softmap.report import stats


@pytest.mark.parametrize(
    ("probability", "dof", "expected"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 10, 2.22814), (0.95, 31, 1.69552)],
)
def test_t_quantiles_agree_with_printed_tables(probability, dof, expected):
    assert stats.t_quantile(probability, dof) == pytest.approx(expected, rel=1e-5)
    assert stats.t_quantile(1 - probability, dof) == pytest.approx(-expected, rel=1e-5)


def test_t_quantile_approaches_the_normal_one():
    assert stats.t_quantile(0.975, 1e5) == pytest.approx(1.96, abs=1e-3)


def test_few_windows_give_the_plain_t_interval():
    # mean 2, variance 1, standard error 1/sqrt(3), t with 2 degrees of freedom
    result = stats.interval([1.0, 2.0, 3.0])
    assert result.mean == 2
    assert result.stderr == pytest.approx(sqrt(1 / 3))
    assert result.high - 2 == pytest.approx(4.30265 * sqrt(1 / 3), rel=1e-5)
    assert 2 - result.low == pytest.approx(result.high - 2)


def test_blocks_of_two_windows_by_hand():
    # Blocks (1, 3) and (5, 7): means 2 and 6 around 4, so var = 2/1 ((2 -2/4)^2 + (2 2/4)^2) = 4
    assert stats.block_variance(np.array([1.0, 3, 5, 7]), blocks=2) == (pytest.approx(4.0), 1)


def test_identical_neighbours_count_once():
    values = np.random.default_rng(0).normal(size=32)
    once, _ = stats.block_variance(values)
    repeated, dof = stats.block_variance(np.repeat(values, 5))
    assert repeated == pytest.approx(once)
    assert dof == 31


def test_seed_spread_dominates_where_windows_agree():
    # Seed means 1 and 3: standard error 1, t with one degree of freedom, nothing from windows.
    result = stats.interval([[1.0] * 10, [3.0] * 10])
    assert (result.mean, result.stderr) == (2, pytest.approx(1))
    assert result.high - 2 == pytest.approx(12.7062, rel=1e-5)


def test_equal_seeds_leave_the_window_interval():
    one = stats.interval([1.0, 2.0, 4.0])
    two = stats.interval([[1.0, 2.0, 4.0]] * 2)
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_one_window_proves_nothing():
    result = stats.interval([[-5.0]])
    assert (result.low, result.high, result.sign) == (-inf, inf, 0)


@pytest.mark.parametrize(
    ("values", "sign"), [([1, 1.1, 0.9], 1), ([-1, -1.1, -0.9], -1), ([-1, 1, 0.1], 0)]
)
def test_sign_needs_an_interval_on_one_side(values, sign):
    assert stats.interval(values).sign == sign


def _coverage(draw, repeats: int = 600) -> float:
    intervals = [stats.interval(draw(np.random.default_rng(k))) for k in range(repeats)]
    return float(np.mean([i.low <= 0.0 <= i.high for i in intervals]))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("seed_sd", "window_sd"), [(0.1, 0.1), (0.02, 0.3), (0.0, 0.3)])
def test_coverage_over_seeds_and_windows(seeds, seed_sd, window_sd):
    def draw(random):
        effect = random.normal(0, seed_sd, (seeds, 1)) + random.normal(0, window_sd, (1, 64))
        return effect + random.normal(0, 0.1, (seeds, 64))

    assert _coverage(draw) > 0.93


def test_coverage_of_windows_that_come_from_documents():
    def draw(random):  # documents of 4 windows with a level of their own
        return np.repeat(random.normal(0, 0.3, 64), 4) + random.normal(0, 0.1, 256)

    assert _coverage(draw) > 0.92
    plain = np.mean([abs(v.mean()) < 1.97 * v.std() / 16 for v in map(draw, map(_rng, range(600)))])
    assert plain < 0.75, "the plain interval should fail here, or the test shows nothing"


def _rng(key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def test_coverage_is_not_bought_by_endless_width():
    widths = [stats.interval(np.random.default_rng(k).normal(size=256)).high for k in range(200)]
    assert np.mean(widths) == pytest.approx(2.04 / 16, rel=0.1)


def test_tokens_at_interpolates_in_log_tokens():
    tokens, losses = [100, 200, 400], [4.0, 3.0, 2.0]
    assert stats.tokens_at(3.5, tokens, losses) == pytest.approx(100 * sqrt(2))
    assert stats.tokens_at(2.0, tokens, losses) == pytest.approx(400)
    assert stats.tokens_at(4.0, tokens, losses) == 0
    assert stats.tokens_at(1.9, tokens, losses) == inf


def test_tokens_at_uses_the_first_crossing_of_a_bumpy_curve():
    # The loss rises again at 200; the running minimum is flat there.
    assert stats.tokens_at(2.5, [100, 200, 400], [3.0, 3.2, 2.0]) == pytest.approx(200 * sqrt(2))


def test_token_ratio_of_a_variant_that_is_twice_as_quick():
    ratio = stats.token_ratio([100, 200, 400], [4, 3, 2], [5, 4, 3])
    assert (ratio.value, ratio.bound) == (pytest.approx(0.5), None)


def test_token_ratio_says_which_end_of_the_curve_it_left():
    never = stats.token_ratio([100, 200], [4, 3], [3.5, 2.5], half_width=0.1)
    assert (never.value, never.bound, never.limit, never.high) == (None, ">", 1.0, None)
    early = stats.token_ratio([100, 200], [2, 1], [4, 3], half_width=0.1)
    assert (early.value, early.bound, early.limit) == (None, "<", 0.5)
    single = stats.token_ratio([100], [2], [3])
    assert single.value is None and single.reason is not None


@pytest.mark.parametrize("shift", [-0.3, -0.1, -0.02, 0.0, 0.02])
def test_token_ratio_limits_agree_with_the_loss_interval(shift):
    half = 0.1
    control = np.array([4.0, 3.5, 3.0])
    ratio = stats.token_ratio([100, 200, 400], control + shift, control, half)
    reaches_one = ratio.high is None or ratio.high >= 1 - 1e-12
    assert reaches_one == (shift + half >= -1e-12)


def test_position_bins_cover_every_position_once():
    for context in (1, 2, 3, 17, 256):
        edges = stats.position_edges(context)
        assert edges[0] == 0 and edges[-1] == context
        assert all(a < b for a, b in pairwise(edges))


def test_bin_means_by_hand():
    means = stats.bin_means(np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 8.0]]), [0, 1, 3])
    assert means.tolist() == [[1.0, 4.0], [2.0, 6.0]]
