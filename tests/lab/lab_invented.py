"""Runs whose losses a test invents: all files of a trial, and no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softmap.lab import files
from softmap.lab.trial import OnStep, Trial
from softmap.lab.workbench import Workbench

Loss = Callable[[str, int], float | None]


def normal(label: str, seed: int, sd: float = 0.03) -> float:
    """Of no variant in particular: they all have this mean and this spread."""
    return 3.0 + sd * float(np.random.default_rng([len(label), seed]).normal())


@dataclass
class Invented:
    """Stands in for ``run_trial``.

    loss: of a label and a seed; None: it diverges. seconds: of a run, by which ``clock`` moves on.
    stop: raised instead of the run of that number (from 0 on).
    """

    loss: Loss = normal
    seconds: dict[str, float] = field(default_factory=dict)
    stop: tuple[int, BaseException] | None = None
    clock: Any = None
    trained: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, trial: Trial, bench: Workbench, on_step: OnStep) -> dict[str, Any]:
        files.write_json(trial.folder / "trial.json", trial.identity(bench))
        if self.stop and self.stop[0] == len(self.trained):
            raise self.stop[1]
        label = trial.planned.label
        self.trained.append((label, trial.seed))
        seconds = self.seconds.get(label, 1.0)
        if self.clock is not None:
            self.clock.now += seconds
        result = _result(trial, seconds, self.loss(label, trial.seed))
        files.write_json(trial.folder / "result.json", result)
        return result


def _result(trial: Trial, seconds: float, loss: float | None) -> dict[str, Any]:
    mine = trial.planned
    named = {"variant": mine.label, "slug": mine.slug, "seed": trial.seed}
    if loss is None:
        return named | {"diverged": {"step": 3, "reason": "loss nan"}, "budgets": []}
    files.write_arrays(trial.folder / "eval-0.npz", losses=np.full((8, 32), loss))
    budget = {"tokens": 768, "seconds": seconds, "flops": 1e9, "loss": loss, "stderr": 0.01}
    return named | {
        "peak_lr": mine.peak_lr,
        "peak_lr_source": mine.peak_source,
        **mine.costs(32),
        "tokens_per_second": 768 / seconds,
        "tokens_per_second_range": [768 / seconds] * 2,
        "peak_memory_bytes": 1e6,
        "train_seconds": seconds,
        "whole_seconds": seconds,
        "budgets": [budget | {"file": "eval-0.npz"}],
    }
