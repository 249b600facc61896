"""The runs of a folder as one family of comparisons: any number of a run, under one design.

Shape letters: R runs of a variant, N budgets, W held-out windows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from softmap.report import pooling, stats
from softmap.report.answers import Comparison, Question
from softmap.report.load import FinishedTrial, Run
from softmap.report.pooling import PoolingCheck
from softmap.report.spread import Runs, Spreads
from softmap.report.stats import Array


class Family:
    """All finished runs by variant, the control first, and what their final losses say of pooling.

    A run whose number was fixed by Stein's rule names the seeds of its first stage by variant in
    ``run.json`` (``resolve.first_seeds``); the spread is then that of these runs alone. Else it
    may name earlier runs of the very same recipe (``spreads``): they say how far runs lie from
    their own mean, and are in no mean of this page.
    """

    def __init__(self, run: Run, question: Question) -> None:
        self.control, self.question = run.control, question
        self.trials = {
            label: [run.trials[label][seed] for seed in sorted(run.trials[label])]
            for label in run.labels
            if label in run.trials
        }
        self.first_seeds = (run.info.get("resolve") or {}).get("first_seeds", {})
        self.resolved = (run.info.get("resolve") or {}).get("half_width")
        self.losses = {label: losses(trials) for label, trials in self.trials.items()}
        earlier = {} if self.first_seeds else run.info.get("spreads") or {}
        self.earlier = {
            label: np.array(earlier[label]) for label in self.losses if label in earlier
        }
        final = self.compare(self.final, PoolingCheck(None, None, ()))
        self.check = pooling.check(final.first, final.earlier)
        self.spreads = Spreads(final.first, self.check, final.earlier)

    @property
    def curves(self) -> dict[str, Array]:
        """(R + E, N) the losses of this page's runs, then those of the earlier ones."""
        return {
            label: np.concatenate([losses_RN, self.earlier[label]])
            if label in self.earlier
            else losses_RN
            for label, losses_RN in self.losses.items()
        }

    @property
    def final(self) -> dict[str, Array]:
        """(R + E,) the final loss of every run, by variant."""
        return {label: losses_RN[:, -1] for label, losses_RN in self.curves.items()}

    @property
    def tokens(self) -> Array:
        """(N,) tokens of the decayed points, the same for all."""
        trial = next(iter(self.trials.values()))[0]
        return np.array([budget.tokens for budget in trial.budgets], dtype=np.float64)

    def compare(self, values: Runs, check: PoolingCheck | None = None) -> Comparison:
        """Returns the comparison of another number of each run under the same design; the values
        are those of this page's runs in their order and then, where they are known, of the earlier
        ones.
        """
        count = counts(self.trials)
        mine = {label: found[: count[label]] for label, found in values.items()}
        earlier = {label: found[count[label] :] for label, found in values.items()}
        check = self.check if check is None else check
        first = self._first(mine)
        return Comparison(mine, self.control, self.question, check, first, earlier)

    def each(self, number: Callable[[str, Array], Array]) -> dict[str, Array]:
        """Returns ``number(label, losses_RN)`` of every variant, for all of its [`curves`][]."""
        return {label: number(label, losses_RN) for label, losses_RN in self.curves.items()}

    def _first(self, values: Runs) -> Runs:
        """Returns the values of the first stage's seeds; of all runs where a variant has no first
        stage.
        """
        return {label: self._first_of(label, found) for label, found in values.items()}

    def _first_of(self, label: str, found: Any) -> list[float]:
        seeds = self.first_seeds.get(label, ())
        pairs = zip(found, self.trials[label], strict=True)
        return [value for value, trial in pairs if trial.seed in seeds] or list(found)


def losses(trials: list[FinishedTrial]) -> Array:
    """Returns the held-out loss of every run at every budget, (R, N), in nats per token."""
    return np.array([[budget.loss for budget in trial.budgets] for trial in trials])


def at(place: float, places_N: Sequence[float] | Array, losses_RN: Array) -> Array:
    """Returns each run's loss (R,) at a place between its decayed points, linear in the logarithm.

    Beyond either end it is the loss at that end.
    """
    x = np.log(np.asarray(places_N, dtype=np.float64))
    return np.array([np.interp(np.log(place), x, row) for row in losses_RN])


def seconds(trials: list[FinishedTrial], tokens_N: Array) -> Array:
    """Returns the training time to each budget, (N,): tokens over the median measured speed.

    It is not the wall-clock time, which includes pauses and other work of the machine.
    """
    speed = np.median([trial.result["tokens_per_second"] for trial in trials])
    return np.asarray(tokens_N / speed)


def spent(trials: list[FinishedTrial]) -> Array:
    """Returns the tokens trained until each budget was reached, (N,): more than the budget's own
    where a schedule discards decays or restarts.
    """
    return np.array([b.spent or b.tokens for b in trials[0].budgets], dtype=np.float64)


def windows(trials: list[FinishedTrial]) -> Array:
    """Returns the mean final loss of every held-out window over the runs, (W,)."""
    return np.mean([trial.budgets[-1].losses_WT.mean(axis=1) for trial in trials], axis=0)


def counts(trials: Mapping[str, list[FinishedTrial]]) -> dict[str, int]:
    """Returns the number of runs of each variant."""
    return {label: len(found) for label, found in trials.items()}


def position_losses(trials: list[FinishedTrial], edges: list[int]) -> Array:
    """Returns the final loss of each run, (R, bins), averaged over windows and over the positions
    of each bin.
    """
    found = [stats.bin_means(trial.budgets[-1].losses_WT, edges) for trial in trials]
    return np.stack(found).mean(axis=1)
