"""The compute-equivalent factor: how much more of the control's compute a variant is worth.

With at least four budgets the control's mean curve is fitted by L(D) = E + A D^-alpha. The variant
ends at L_v after T tokens; the fit reaches that loss after D' = (A / (L_v - E))^(1/alpha) tokens.
The factor is D' / T times the control's FLOPs per token over the variant's: above 1, the variant
does what the control would need more compute for.

Its interval comes from simulated means: the curve of n runs gets an error with the covariance of a
run over n, by random sums of the runs' residuals (all variants'), widened by the ratio of the
family's critical value to the normal one. Factors are refitted for each, and the middle 95 % is the
interval. An end where the loss lies below the fitted floor E is infinite: None.
"""

from __future__ import annotations

import numpy as np

from softmap.report.answers import Answer, finite
from softmap.report.family import Family
from softmap.report.stats import Array

BUDGETS = 4
DRAWS = 2000
ALPHAS = np.geomspace(0.02, 3.0, 120)


def factors(family: Family, finals: dict[str, Answer]) -> dict[str, dict[str, float | None]]:
    """Returns ``value``, ``low`` and ``high`` in tokens by variant; nothing with fewer than four
    budgets.

    Without a spread between runs there is a value and no interval.
    """
    tokens_N = family.tokens
    if len(tokens_N) < BUDGETS:
        return {}
    control_N = family.losses[family.control].mean(axis=0)
    return {label: _factor(family, label, control_N, finals[label]) for label in finals}


def _factor(family: Family, label: str, control_N: Array, final: Answer) -> dict[str, float | None]:
    tokens_N, mine = family.tokens, family.losses[label].mean(axis=0)[-1]
    value = equivalent(tokens_N, control_N[None], np.array([mine]))[0]
    limits: tuple[float | None, float | None] = (None, None)
    if final.high is not None and final.run_stderr is not None:
        wide = (final.high - final.mean) / final.run_stderr / 1.959964
        noise = wide * errors(family, final)
        n0, n = len(family.losses[family.control]), len(family.losses[label])
        curves = control_N + noise[0] / np.sqrt(n0)
        found = equivalent(tokens_N, curves, mine + noise[1][:, -1] / np.sqrt(n))
        low, high = np.quantile(found, [0.025, 0.975], method="nearest")
        limits = (finite(float(low)), finite(float(high)))
    return {"value": finite(float(value)), "low": limits[0], "high": limits[1]}


def errors(family: Family, final: Answer) -> Array:
    """Returns the errors (2, DRAWS, N) of single runs, for the control and for a variant.

    Residuals of all runs in random sums have the runs' covariance over the budgets; they are scaled
    so that the final loss has the error of the answer.
    """
    residuals = np.concatenate([y - y.mean(axis=0) for y in family.losses.values()])
    residuals /= np.sqrt(sum(len(y) - 1 for y in family.losses.values()))
    noise = np.random.default_rng(0).normal(size=(2, DRAWS, len(residuals))) @ residuals
    pooled = np.sqrt(np.sum(residuals[:, -1] ** 2))
    single = (final.run_stderr or 0.0) / np.sqrt(1 / final.runs + 1 / final.control_runs)
    return np.asarray(noise * (single / pooled if pooled > 0 else 0.0))


def equivalent(tokens_N: Array, curves_BN: Array, losses_B: Array) -> Array:
    """Returns the tokens (B,) at which each fitted curve reaches a loss, over the last
    budget's; may be inf.
    """
    floor_B, scale_B, alpha_B = fit(tokens_N / tokens_N[-1], curves_BN)
    above_B = losses_B - floor_B
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        reach_B = (scale_B / np.maximum(above_B, 0.0)) ** (1 / alpha_B)
    return np.where((above_B > 0) & (scale_B > 0), reach_B, np.inf)


def fit(places_N: Array, curves_BN: Array) -> tuple[Array, Array, Array]:
    """Returns (floor, scale, alpha) of E + A x^-alpha by least squares, with E >= 0 and alpha from
    a fixed grid.
    """
    best = np.full(len(curves_BN), np.inf)
    found = np.zeros((3, len(curves_BN)))
    for alpha in ALPHAS:
        powers = places_N**-alpha
        centred = powers - powers.mean()
        scale = (curves_BN @ centred) / (centred @ centred)
        floor = curves_BN.mean(axis=1) - scale * powers.mean()
        low = floor < 0
        scale = np.where(low, (curves_BN @ powers) / (powers @ powers), scale)
        floor = np.where(low, 0.0, floor)
        error = np.sum((floor[:, None] + scale[:, None] * powers - curves_BN) ** 2, axis=1)
        better = error < best
        best = np.where(better, error, best)
        found[:, better] = np.stack([floor, scale, np.full_like(floor, alpha)])[:, better]
    return found[0], found[1], found[2]
