"""A variant against the control: the same seeds, the same held-out windows, pair by pair.

Shape letters: N budgets, S seeds, W held-out windows, T positions.
"""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmap.report import stats
from softmap.report.load import Trial

Array = NDArray[np.floating[Any]]
Row = dict[str, Any]


def add_differences(row: Row, variant: dict[int, Trial], control: dict[int, Trial]) -> None:
    """Fill in every ``difference``, ``token_ratio`` and ``equal_time`` of a variant's row.

    Only seeds that both have finished are paired; without one the row stays as it is.
    """
    seeds = sorted(set(variant) & set(control))
    if not seeds:
        return
    ours = [variant[seed] for seed in seeds]
    theirs = [control[seed] for seed in seeds]
    losses_NSW, control_NSW = window_losses(ours), window_losses(theirs)
    pairs = [stats.interval(pair_SW) for pair_SW in losses_NSW - control_NSW]
    for budget, pair in zip(row["budgets"], pairs, strict=True):
        budget["difference"] = as_dict(pair)
    row["difference"] = as_dict(pairs[-1])
    row["token_ratio"] = _token_ratio(ours, losses_NSW, control_NSW, pairs[-1])
    row["equal_time"] = _equal_time(ours, theirs, losses_NSW, control_NSW[-1])
    _add_by_position(row["by_position"], ours, theirs)


def window_losses(trials: list[Trial]) -> Array:
    """(N, S, W) mean loss of every held-out window at every budget, nats per token."""
    by_seed_SNW = np.array(
        [[budget.losses_WT.mean(axis=1) for budget in trial.budgets] for trial in trials]
    )
    return by_seed_SNW.swapaxes(0, 1)


def position_losses(trials: list[Trial], edges: list[int]) -> Array:
    """(S, W, bins) final loss averaged over the positions of each bin."""
    return np.stack([stats.bin_means(trial.budgets[-1].losses_WT, edges) for trial in trials])


def as_dict(interval: stats.Interval) -> Row:
    """An interval for JSON: infinite limits (a single window) become None."""
    values = {key: finite(value) for key, value in asdict(interval).items()}
    return values | {"sign": interval.sign}


def finite(value: float) -> float | None:
    """The value, or None where JSON has no word for it."""
    return value if isfinite(value) else None


def _token_ratio(
    trials: list[Trial], losses_NSW: Array, control_NSW: Array, final: stats.Interval
) -> Row:
    tokens = [budget.tokens for budget in trials[0].budgets]
    ours, theirs = losses_NSW.mean(axis=(1, 2)), control_NSW.mean(axis=(1, 2))
    return asdict(stats.token_ratio(tokens, ours, theirs, final.high - final.mean))


def _equal_time(
    ours: list[Trial], theirs: list[Trial], losses_NSW: Array, control_SW: Array
) -> Row | None:
    """Loss difference when the variant may train only as long as the control did.

    The variant's loss is interpolated, window by window, linearly in log time between its decayed
    points, so that the interval stays a paired one. A variant that was done sooner is judged by
    its final loss (which favours the control); one whose first budget took longer than the
    control's whole run has no value.
    """
    seconds = _seconds(ours)
    allowed = _seconds(theirs)[-1]
    if min(seconds) <= 0 or allowed < seconds[0]:
        return None
    position = float(np.interp(np.log(allowed), np.log(seconds), np.arange(len(seconds))))
    below = int(position)
    above = min(below + 1, len(seconds) - 1)
    share = position - below
    matched_SW = (1 - share) * losses_NSW[below] + share * losses_NSW[above]
    return as_dict(stats.interval(matched_SW - control_SW))


def _seconds(trials: list[Trial]) -> list[float]:
    by_seed_SN = [[budget.seconds for budget in trial.budgets] for trial in trials]
    return [float(value) for value in np.median(by_seed_SN, axis=0)]


def _add_by_position(bins: list[Row], ours: list[Trial], theirs: list[Trial]) -> None:
    edges = [bins[0]["from"], *(entry["to"] + 1 for entry in bins)]
    pairs_SWb = position_losses(ours, edges) - position_losses(theirs, edges)
    for index, entry in enumerate(bins):
        entry["difference"] = as_dict(stats.interval(pairs_SWb[..., index]))
