"""What is read off curves: ratios at equal loss, trends, crossings, fitted factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from runs import family, run

from softmap.report import differences
from softmap.report.answers import Question
from softmap.report.factor import equivalent, factors, fit
from softmap.report.family import Family, at, seconds
from softmap.report.ratios import ratios
from softmap.report.speed import log_error
from softmap.report.trend import slopes, trends

TOKENS = [100, 200, 400, 800]
LINE = [4.0, 3.5, 3.0, 2.5]  # half a nat a doubling


def around(line, spread=0.01, shift=0.0):
    """Three runs about a curve."""
    return [[y + shift + d for y in line] for d in (-spread, 0.0, spread)]


def ratio(shift, spread=0.01, **runs):
    return ratios(
        family({"control": around(LINE, spread), "v": around(LINE, spread, shift)}, TOKENS)
    )["v"]


@pytest.mark.parametrize(
    ("shift", "expected"), [(-0.5, 0.5), (0.5, 2.0), (-0.2, 2**-0.4), (0.0, 1)]
)
def test_a_shift_of_half_a_nat_is_a_factor_of_two(shift, expected):
    found = ratio(shift)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_limits_are_the_shifted_curve_s():
    fam = family({"control": around(LINE), "v": around(LINE, shift=-0.2)}, TOKENS)
    half = fam.compare(fam.final).answer("v")
    found = ratios(fam)["v"]
    assert found.low == pytest.approx(2 ** (half.low / 0.5), rel=1e-3)
    assert found.high == pytest.approx(2 ** (half.high / 0.5), rel=1e-3)


@pytest.mark.parametrize("shift", [-0.06, -0.03, -0.02, 0.0, 0.02, 0.03, 0.06])
def test_the_interval_holds_one_exactly_where_nothing_is_resolved(shift):
    fam = family({"control": around(LINE), "v": around(LINE, shift=shift)}, TOKENS)
    answer, found = fam.compare(fam.final).answer("v"), ratios(fam)["v"]
    assert (found.low < 1 < found.high) == (answer.sign == 0)


def test_beyond_the_curves_the_words_are_one_sided():
    worse, better = ratio(3.0), ratio(-3.0)
    assert (worse.value, worse.bound, worse.high) == (None, ">", None)
    assert worse.limit == pytest.approx(8)
    assert (better.value, better.bound, better.low) == (None, "<", None)
    assert better.limit == pytest.approx(1 / 8)
    edge = ratio(1.45, spread=0.05)  # the estimate is on the curve, its upper limit is not
    assert edge.value == pytest.approx(2**2.9) and edge.low > 1 and edge.high is None


def test_without_replicates_a_ratio_has_no_interval_and_one_budget_no_ratio():
    found = ratios(family({"control": [LINE], "v": [[y - 0.5 for y in LINE]]}, TOKENS))["v"]
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high, found.interval) == (None, None, False)
    assert ratios(family({"control": [[2.0], [2.1]], "v": [[2.2], [2.3]]}, [100])) == {}


def test_other_costs_scale_every_limit():
    tokens, flops = ratio(-0.5), ratio(-0.5).times(1.2)
    assert flops["low"] == pytest.approx(1.2 * tokens.low)
    assert flops["value"] == pytest.approx(0.6) and flops["interval"] is True


def test_an_error_of_the_cost_adds_up_in_squares():
    found = ratio(-0.5)
    exact, wide = found.times(1.2), found.times(1.2, error=0.1)
    assert wide["value"] == exact["value"] == pytest.approx(0.6)
    for end in ("low", "high"):
        distance = np.log(exact[end] / exact["value"])
        assert abs(np.log(wide[end] / wide["value"])) == pytest.approx(np.hypot(distance, 0.1))
    beyond = ratio(-1.55, spread=0.05)  # without an estimate the limit itself moves
    assert beyond.value is None and beyond.high is not None
    assert beyond.times(1.0, error=0.1)["high"] == pytest.approx(beyond.high * np.exp(0.1))
    assert beyond.times(1.0, error=0.1)["low"] is None


def test_the_error_of_a_speed_by_hand():
    def row(low, high, rounds):
        return {
            "tokens_per_second": 100.0,
            "tokens_per_second_range": [low, high],
            "speed_rounds": rounds,
        }

    # sd 3 and 4 of 100, medians of 4 rounds: 1.2533 * 0.05 / 2; t(0.975, 3) = 3.1824
    found = log_error(row(97, 103, 4), row(96, 104, 4), 0.95, 1)
    assert found == pytest.approx(3.18245 * 1.2533 * 0.05 / 2, rel=1e-4)
    assert log_error(row(97, 103, 4), row(96, 104, 4), 0.95, 6) > found  # one of six
    assert log_error(row(97, 103, None), row(96, 104, 4), 0.95, 1) is None


def test_the_interval_of_a_measured_speed_covers(draws=2000):
    random = np.random.default_rng(0)

    def row():
        low, middle, high = np.percentile(random.normal(100, 3, 7), [10, 50, 90])
        ends = [low, high]
        return {"tokens_per_second": middle, "tokens_per_second_range": ends, "speed_rounds": 7}

    inside = 0
    for _ in range(draws):
        mine, control = row(), row()
        gap = abs(np.log(mine["tokens_per_second"] / control["tokens_per_second"]))
        inside += gap <= log_error(mine, control, 0.95, 1)
    assert 0.94 < inside / draws < 0.995  # df of one of two medians: never too narrow


@pytest.mark.slow
def test_ratios_cover(draws=120):
    random, inside = np.random.default_rng(0), 0
    for _ in range(draws):

        def noisy(shift, n):
            return [[y + shift + random.normal(0, 0.03) for y in LINE] for _ in range(n)]

        found = ratios(family({"control": noisy(0, 4), "v": noisy(-0.25, 3)}, TOKENS))["v"]
        inside += (found.low or 0) <= 2**-0.5 <= (found.high or 99)
    assert inside / draws == pytest.approx(0.95, abs=0.06)  # three standard errors


def test_at_reads_each_run_s_own_line():
    found = at(200 * 2**0.5, TOKENS, np.array([LINE, [1.0, 1.0, 2.0, 2.0]]))
    assert found.tolist() == pytest.approx([3.25, 1.5])
    assert at(1, TOKENS, np.array([LINE])).tolist() == [4.0]


def test_time_is_tokens_over_measured_speed():
    fam = family({"control": [LINE]}, TOKENS)
    assert seconds(fam.trials["control"], fam.tokens).tolist() == [1, 2, 4, 8]


def trend(ends, spread=0.005, n=3, **question):
    """A variant whose difference to the control is ``ends`` at the four budgets."""
    bent = [y + d for y, d in zip(LINE, ends, strict=True)]
    fam = family({"control": around(LINE, spread), "v": around(bent, spread)}, TOKENS, **question)
    # Runs shift as a whole, so that slopes have no spread; a little noise of their own.
    random = np.random.default_rng(0)
    fam.losses = {v: y + random.normal(0, 1e-3, y.shape) for v, y in fam.losses.items()}
    return trends(fam, fam.compare(fam.final).answers())["v"]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([0.0, -0.1, -0.2, -0.3], "ahead, growing"),
        ([-0.5, -0.3, -0.2, -0.1], "ahead, shrinking (would cross"),
        ([-0.1, -0.1, -0.1, -0.1], "ahead, settled"),
        ([0.4, 0.3, 0.2, 0.1], "behind, closing (would cross"),
        ([0.0, 0.1, 0.2, 0.3], "behind, growing"),
        ([0.5, 0.1, 0.1, 0.1], "behind, settled"),  # the first budget is not looked at
        ([0.0, 0.0, 0.0, 0.0], "level, settled"),
    ],
)
def test_trend_words(ends, words):
    assert trend(ends)["words"].startswith(words)


def test_a_trend_is_no_stronger_than_its_interval():
    random = np.random.default_rng(1)
    noisy = {
        v: [[y + s + random.normal(0, 0.1) for y in LINE] for _ in range(3)]
        for v, s in (("control", 0), ("v", 2.0))
    }
    fam = family(noisy, TOKENS)
    assert (
        trends(fam, fam.compare(fam.final).answers())["v"]["words"] == "behind, trend not resolved"
    )
    single = family({"control": [LINE], "v": [LINE]}, TOKENS)
    assert trends(single, single.compare(single.final).answers()) == {}


def test_the_crossing_by_hand():
    # 0.1 behind at 800 tokens, 0.1 less a doubling: level at 1600.
    found = trend([0.4, 0.3, 0.2, 0.1])
    assert found["per_doubling"] == pytest.approx(-0.1, abs=2e-3)
    assert found["crossing"]["tokens"] == pytest.approx(1600, rel=0.03)
    assert found["crossing"]["low"] < 1600 < found["crossing"]["high"]
    far = trend([0.49, 0.48, 0.44, 0.40])
    assert far["crossing"]["tokens"] is None and "not cross within 10 times" in far["words"]


def test_slopes_by_hand():
    assert slopes(np.array(TOKENS), np.array([LINE, [9.0, 1.0, 2.0, 3.0]])) == pytest.approx(
        [-0.5, 1]
    )


CURVE = [1.5 + 2.0 * t**-0.4 for t in (1, 2, 4, 8, 16)]
PLACES = [1000, 2000, 4000, 8000, 16000]


def test_the_fit_finds_its_own_curve():
    floor, scale, alpha = fit(np.array(PLACES) / PLACES[-1], np.array([CURVE]))
    assert floor[0] == pytest.approx(1.5, abs=0.03) and alpha[0] == pytest.approx(0.4, abs=0.02)
    assert scale[0] == pytest.approx(2.0 * 16**-0.4, abs=0.03)


def test_a_variant_of_twice_the_compute():
    double = 1.5 + 2.0 * 32**-0.4
    assert equivalent(np.array(PLACES), np.array([CURVE]), np.array([double]))[0] == pytest.approx(
        2, rel=0.05
    )
    assert equivalent(np.array(PLACES), np.array([CURVE]), np.array([1.0]))[0] == np.inf


@pytest.mark.slow
def test_factors_cover_and_need_four_budgets(draws=60):
    random, inside, truth = np.random.default_rng(0), 0, 2.0
    ahead = [1.5 + 2.0 * (truth * t) ** -0.4 for t in (1, 2, 4, 8, 16)]
    for _ in range(draws):

        def noisy(line, n):
            return [
                [y + c + random.normal(0, 0.004) for y in line] for c in random.normal(0, 0.02, n)
            ]

        fam = family({"control": noisy(CURVE, 5), "v": noisy(ahead, 3)}, PLACES)
        found = factors(fam, fam.compare(fam.final).answers())["v"]
        inside += found["low"] <= truth <= (found["high"] or np.inf)
    assert 0.86 < inside / draws <= 1
    three = family({"control": [LINE[:3]], "v": [LINE[:3]]}, TOKENS[:3])
    assert factors(three, three.compare(three.final).answers()) == {}


def test_a_factor_without_replicates_has_no_interval():
    fam = family({"control": [CURVE], "v": [CURVE]}, PLACES)
    found = factors(fam, fam.compare(fam.final).answers())["v"]
    assert found["value"] == pytest.approx(1, rel=0.02) and found["low"] is None


def test_equal_total_compute_counts_what_was_thrown_away():
    """The variant's budgets cost 100, 300, 700, 1500 tokens in all: it is read at 800 of them."""
    made = run({"control": around(LINE), "v": around(LINE)}, TOKENS)
    for label, trials in made.trials.items():
        for trial in trials.values():
            trial.result["flops_per_token"] = 6.0
            if label == "v":
                total = np.cumsum(TOKENS)
                trial.budgets[:] = [
                    replace(b, spent=int(t)) for b, t in zip(trial.budgets, total, strict=True)
                ]
    fam = Family(made, Question())
    answer = differences._equal_compute(fam)["v"]
    share = np.log(800 / 700) / np.log(1500 / 700)
    assert answer.mean == pytest.approx((1 - share) * 3.0 + share * 2.5 - 2.5)
    plain = family({"control": around(LINE), "v": around(LINE)}, TOKENS)
    assert differences._equal_compute(plain) == {}  # nothing is thrown away: no column
