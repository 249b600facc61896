"""The points of a tuning: one variant at one peak with one seed, trained to its full decay."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.evals.loss import mean_and_stderr, token_losses
from softmap.fields import check
from softmap.lab import files
from softmap.lab.plan import PlannedModel
from softmap.lab.progress import OnStep
from softmap.lab.recipe import Recipe
from softmap.lab.schedule import TrainingTask
from softmap.lab.trial import Trial, build, fingerprint, fit
from softmap.lab.workbench import WithWorkbench, Workbench
from softmap.train import NonFiniteLoss


class PointFile(TypedDict):
    """The contents of ``point.json``."""

    loss: float | None  # None: it was not finite


def tuning_windows(heldout: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Returns (n, context + 1) held-out windows, none of which the comparison evaluates.

    Raises ``SoftmapError`` when the held-out text has none left.
    """
    context, wanted = recipe.model.context, recipe.tuning.windows
    every = order.windows(heldout, context)
    reported = order.windows(heldout, context, recipe.evaluation.windows)
    final = {window.tobytes() for window in reported}
    spare = np.array([i for i, window in enumerate(every) if window.tobytes() not in final])
    if not len(spare):
        raise SoftmapError(
            f"tuning needs held-out windows beside the {len(final)} that the comparison uses, "
            f"found {len(every)} in all: --set evaluation.windows={max(1, len(every) * 3 // 4)} "
            "leaves a quarter of them, a larger data.heldout gives more"
        )
    chosen = np.linspace(0, len(spare) - 1, min(wanted, len(spare))).round().astype(int)
    return every[spare[chosen]]


@dataclass(frozen=True)
class TuningPoint:
    """A variant at one peak with one seed; ``trial.folder`` keeps the result."""

    trial: Trial

    @property
    def name(self) -> str:
        """The point's name in messages."""
        return f"{self.trial.planned.label} at {self.trial.planned.peak_lr:g}"

    def task(self, shared: WithWorkbench) -> TrainingTask:
        """Returns the task that trains it on what all points share."""
        return TrainingTask(
            self.name, self.trial.seed, self.trial.folder, functools.partial(shared, self.train)
        )

    def found(self) -> dict[str, Any] | None:
        """Returns the file of an earlier call, or None; raises ``SoftmapError`` where it is
        damaged.
        """
        path = self.trial.folder / "point.json"
        found: dict[str, Any] | None = files.read_json(path)
        if found is not None:
            check(str(path), found, PointFile)
        return found

    def train(self, shared: Workbench, on_step: OnStep) -> dict[str, Any]:
        """Train the point, or continue its training; returns what its file holds."""
        trial = self.trial
        model = build(trial.planned, trial.seed, shared.device)
        found: dict[str, Any] = {"loss": None}
        try:
            fit(
                model, trial.planned, shared.recipe, shared.corpus, trial.seed,
                trial.folder, on_step=on_step,
            )  # fmt: skip
            found["loss"] = self._heldout(model, shared)
        except NonFiniteLoss as error:
            found["diverged"] = str(error)
        files.write_json(trial.folder / "point.json", found)
        return found

    def _heldout(self, model: Any, shared: Workbench) -> float | None:
        windows = tuning_windows(shared.corpus.heldout, shared.recipe)
        batch, end = shared.recipe.evaluation.batch_size, shared.document_end
        losses = token_losses(model, windows, batch_size=batch, end=end)
        loss, _ = mean_and_stderr(losses)
        return loss if math.isfinite(loss) else None


def tuning_point(
    shared: Workbench, mine: PlannedModel, peak: float, seed: int, folder: Path
) -> TuningPoint:
    """Returns the point, in a folder named after everything that its loss depends on."""
    windows = len(tuning_windows(shared.corpus.heldout, shared.recipe))
    trial = Trial(dataclasses.replace(mine, peak_lr=peak), seed, folder)
    mark = fingerprint({**trial.identity(shared), "windows": windows})
    return TuningPoint(dataclasses.replace(trial, folder=folder / f"{mine.slug}-{mark}"))
