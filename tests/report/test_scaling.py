"""Laws of loss over sizes and tokens: what was put in is found, within its interval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from softmap.errors import SoftmapError
from softmap.report.load import Budget, FinishedTrial, Run
from softmap.report.scaling.equal import ComparisonPoint, best_shape, ratios, yardstick
from softmap.report.scaling.law import Law, fit
from softmap.report.scaling.page import render
from softmap.report.scaling.summary import summary
from softmap.report.scaling.sweep import sweep
from softmap.report.scaling.table import lines

TRUE = Law(1.8, 40.0, 300.0, 0.35, 0.4)
SIZES = (1e5, 2e5, 4e5, 8e5, 16e5)
TOKENS = np.array([1e6, 2e6, 4e6, 8e6, 16e6])


def run(size, laws, seeds=3, spread=0.01, tokens=TOKENS, windows=8, number=0) -> Run:
    """One folder: each run a little off as a whole, windows of their own difficulty."""
    random = np.random.default_rng((number, int(size)))
    hard_W = np.random.default_rng(9).normal(0, 0.2, windows)
    trials = {}
    for label, law in laws.items():
        for seed in range(seeds):
            off = random.normal(0, spread)
            budgets = [
                Budget(int(d), 1.0, 1.0, 0.0, np.tile(
                    (law.loss(size, d) + off + random.normal(0, spread / 4)
                     + hard_W - hard_W.mean())[:, None], 4))
                for d in tokens
            ]  # fmt: skip
            result = {
                "parameters": int(size),
                "flops_per_token": 6 * size,
                "tokens_per_second": 100,
            }
            if label != "control":
                result |= {"tokens_per_second": 80}
            trials.setdefault(label, {})[seed] = FinishedTrial(
                label, seed, result, budgets, [], None
            )
    info = {"control": "control", "variants": list(laws), "seeds": list(range(seeds))}
    return Run(Path(f"size{int(size)}"), info, trials, [])


def runs(laws, sizes=SIZES, **more):
    return [run(size, laws, **more) for size in sizes]


def test_a_law_without_noise_is_recovered_and_outliers_do_not_bend_it():
    n, d = (x.ravel() for x in np.meshgrid(SIZES, TOKENS))
    losses = TRUE.loss(n, d)
    found = fit(n, d, losses)
    for name in "EABab":
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.02)
    losses[3] *= 1.3
    bent = fit(n, d, losses)
    assert bent.loss(1e6, 1e7) == pytest.approx(TRUE.loss(1e6, 1e7), rel=0.01)
    assert pytest.approx(1.8, abs=0.1) == bent.E


def test_ratios_by_hand():
    # Half the parameters for the same loss: A is 0.5^a of the control's.
    half = Law(1.8, 40.0 * 0.5**0.35, 300.0, 0.35, 0.4)
    found = ratios(TRUE, half, ComparisonPoint(1e6, 1e7, speed=0.8))
    assert found["parameters"] == pytest.approx(0.5)
    # Along the best shapes C^(-ab/(a+b)): the constant K has the factor 0.5^(ab/(a+b)).
    assert found["compute"] == pytest.approx(0.5)
    assert 0.5 < found["tokens"] < 1
    gain = ((TRUE.loss(1e6, 1e7) - 1.8) / (half.loss(1e6, 1e7) - 1.8)) ** (0.75 / 0.14)
    assert found["Sc"] == pytest.approx(gain) and found["Sw"] == pytest.approx(0.8 * gain)
    dear = ratios(TRUE, half, ComparisonPoint(1e6, 1e7, flops=1.25, speed=0.8))
    assert dear["compute"] == pytest.approx(0.625) and dear["Sc"] == pytest.approx(gain / 1.25)
    assert dear["Sw"] == found["Sw"]  # time is time, however it is counted
    worse = ratios(TRUE, Law(2.6, 1.0, 1.0, 0.35, 0.4), ComparisonPoint(1e6, 1e7))
    assert worse["tokens"] == worse["parameters"] == worse["compute"] == np.inf
    assert yardstick(TRUE, 1.7, 2.0) == np.inf


def test_the_best_shape_is_the_cheapest():
    n, d = best_shape(TRUE, 0.5)
    assert TRUE.loss(n, d) == pytest.approx(TRUE.E + 0.5)
    for other in (0.9 * n, 1.1 * n):
        tokens = (300.0 / (0.5 - 40.0 * other**-0.35)) ** (1 / 0.4)
        assert other * tokens > n * d


def test_intervals_hold_what_was_put_in():
    # The variant needs 0.8 of the tokens: B is 0.8^b of the control's.
    laws = {"control": TRUE, "v": Law(1.8, 40.0, 300.0 * 0.8**0.4, 0.35, 0.4)}
    found = summary(sweep(runs(laws)), draws=60)
    for label, law in laws.items():
        for name, value in (("E", law.E), ("a", law.a), ("b", law.b)):
            one = found["variants"][label]["law"][name]
            assert one["low"] < value < one["high"], (label, name)
    true = ratios(TRUE, laws["v"], ComparisonPoint(16e5, 16e6, speed=0.8))
    for name, one in found["variants"]["v"]["ratios"].items():
        assert one["low"] < true[name] < one["high"], name
    tokens = found["variants"]["v"]["ratios"]["tokens"]
    assert tokens["value"] == pytest.approx(0.8, abs=0.1) and tokens["high"] < 1
    assert found["at"] == pytest.approx(
        {"parameters": 16e5, "tokens": 16e6, "loss": TRUE.loss(16e5, 16e6)}, rel=0.01
    )


@pytest.mark.slow
def test_intervals_cover():
    laws = {"control": TRUE, "v": TRUE}
    inside = 0
    for number in range(40):
        found = summary(sweep(runs(laws, seeds=2, number=number)), draws=60)
        one = found["variants"]["v"]["ratios"]["tokens"]
        inside += one["low"] < 1 < one["high"]
    assert inside >= 33  # of 40 at 95 %: fewer has a probability of 0.001


def test_more_noise_is_a_wider_interval():
    widths = []
    for spread in (0.003, 0.03):
        found = summary(sweep(runs({"control": TRUE, "v": TRUE}, spread=spread)), draws=20)
        one = found["variants"]["v"]["ratios"]["Sc"]
        widths.append(np.log(one["high"] / one["low"]) if one["high"] else np.inf)
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sizes": SIZES[:2]}, "at 3 sizes or more, each 10 % above .* found parameters 100k and"),
        ({"sizes": (1e5, 1.02e5, 4e5)}, "each 10 % above the one before"),
        ({"tokens": TOKENS[:2]}, "expected 3 budgets or more in each run, found 2"),
        ({"seeds": 1}, "expected runs of several seeds"),
    ],
)
def test_too_little_for_a_law(more, said):
    with pytest.raises(SoftmapError, match=f"scale: .*{said}"):
        sweep(runs({"control": TRUE}, **more))


def test_variants_of_too_few_sizes_are_left_out_and_said():
    some = [run(n, {"control": TRUE, "v": TRUE} if n > 3e5 else {"control": TRUE}) for n in SIZES]
    some[0].info["variants"].append("w")
    some[0].trials["w"] = some[0].trials["control"]
    found = summary(sweep(some), draws=5)
    assert set(found["variants"]) == {"control", "v"}
    assert "w: left out, it has too few sizes." in found["caveats"]


def test_the_page_holds_laws_ratios_and_charts():
    found = summary(sweep(runs({"control": TRUE, "v": Law(1.8, 39.0, 300.0, 0.35, 0.4)})), draws=5)
    html = render(found, "softmap scale a b c", "0")
    for text in ("chart-laws", "chart-ratios", "Tokens for equal loss", "softmap scale a b c"):
        assert text in html
    said = "\n".join(lines(found))
    assert "alpha = ab / (a + b)" in said and "with 1.6M parameters and 16M tokens" in said
    alone = summary(sweep(runs({"control": TRUE})), draws=5)
    assert "chart-ratios" not in render(alone, "", "0")
    json.dumps(found, allow_nan=False)


def test_a_law_that_never_reaches_the_loss_is_said(tmp_path):
    found = summary(sweep(runs({"control": TRUE, "v": Law(2.6, 1.0, 1.0, 0.35, 0.4)})), draws=5)
    assert found["variants"]["v"]["ratios"]["tokens"] == dict.fromkeys(("value", "low", "high"))
    assert "never [∞, ∞]" in "\n".join(lines(found))
    render(found, "", "0")
