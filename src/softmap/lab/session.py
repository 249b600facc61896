"""A comparison in progress: it trains trials, and keeps ``run.json`` and the page up to date."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from softmap.lab import files
from softmap.lab.facts import run_facts
from softmap.lab.page import Page
from softmap.lab.peaks import Peaks
from softmap.lab.plan import Plan, PlannedModel
from softmap.lab.progress import Display
from softmap.lab.request import Request
from softmap.lab.schedule import TrainingTask, results
from softmap.lab.seeds import joined
from softmap.lab.trial import Trial, run_trial
from softmap.lab.workbench import PackedWorkbench, Workbench
from softmap.report.peaks import PEAKS
from softmap.report.words import runs_a_variant


@dataclass
class Session:
    """The state of one call. Its plan and the recipe in ``shared`` grow with [`add`][]."""

    folder: Path
    plan: Plan
    shared: Workbench
    peaks: Peaks
    request: Request
    display: Display
    page: Page

    @property
    def jobs(self) -> int:
        """The number of trials at once."""
        return self.request.jobs or 1

    @property
    def run_tokens(self) -> int:
        """The number of tokens that a trial is trained on."""
        return self.shared.recipe.training.steps * self._step_tokens

    @property
    def _step_tokens(self) -> int:
        recipe = self.shared.recipe
        return recipe.training.batch_size * recipe.model.context

    def trial(self, planned: PlannedModel, seed: int) -> Trial:
        """Returns one run, finished or not."""
        return Trial(planned, seed, self.folder / "variants" / planned.slug / f"seed{seed}")

    def trials(self) -> list[Trial]:
        """Returns all trials, one run of each variant first, so that all are seen early.

        Then come the extra runs of variants that have more; the last runs of all variants come
        last, so that no worker waits at the end.
        """
        return self._rounds([(mine, mine.seeds) for mine in self.plan.models])

    def _rounds(self, seeds: list[tuple[PlannedModel, Sequence[int]]]) -> list[Trial]:
        rows = [[self.trial(mine, seed) for seed in own] for mine, own in seeds if own]
        late = max(0, min(map(len, rows), default=0) - 1)
        parts = ([row[:1] for row in rows], [row[1 : len(row) - late] for row in rows],
                 [row[len(row) - late :] for row in rows])  # fmt: skip
        rounds = [trials for part in parts for trials in zip_longest(*part)]
        return [trial for trials in rounds for trial in trials if trial is not None]

    def describe(self) -> None:
        """Report what the models are, and how many will be trained."""
        runs = {planned.label: len(planned.seeds) for planned in self.plan.models}
        self.display.plan(runs, self.shared.recipe.training.steps, self._step_tokens)
        if sum(runs.values()) > len(runs):
            number = runs_a_variant(runs, self.plan.control)
            self.display.note(f"{number}, {sum(runs.values())} in all")
        for sentence in self.peaks.unused:
            self.display.note(sentence)
        for planned in self.plan.models:
            self.display.note(self.shared.described(planned, self.plan))

    def write(self, **more: Any) -> None:
        """Write ``run.json`` with ``more`` in it; tuned peaks from another file are copied
        beside it.
        """
        path = self.peaks.path
        if path is not None and path != self.folder / PEAKS:
            files.write_json(self.folder / PEAKS, files.read_json(path))
        facts = run_facts(
            self.folder, self.plan, self.shared, self.peaks, self.request.command,
            self.request.engine,
        )  # fmt: skip
        files.write_json(self.folder / "run.json", facts | more)

    def add(self, seeds: Mapping[str, Sequence[int]], **more: Any) -> list[Trial]:
        """Returns the trials of further seeds, by label; plan, recipe and display then include
        them.

        Args:
            more: further values for ``run.json``.
        """
        recipe, before = self.shared.recipe, self.plan.models
        entries = [
            dataclasses.replace(entry, seeds=joined(entry.seeds, seeds.get(mine.label, ())))
            for entry, mine in zip(recipe.variants, before, strict=True)
        ]
        recipe = dataclasses.replace(recipe, variants=entries)
        self.shared = dataclasses.replace(self.shared, recipe=recipe)
        after = [
            dataclasses.replace(mine, seeds=tuple(joined(mine.seeds, seeds.get(mine.label, ()))))
            for mine in before
        ]
        self.plan = dataclasses.replace(self.plan, models=after)
        self.display.more({label: len(own) for label, own in seeds.items()})
        self.write(**more)
        return self._rounds([(mine, seeds.get(mine.label, ())) for mine in after])

    def waiting(self, trials: Iterable[Trial]) -> list[Trial]:
        """Returns the trials without a result; the display learns of the others."""
        found = [(trial, trial.result()) for trial in trials]
        for trial, result in found:
            if result is not None:
                self._finish(trial, result, skipped=True)
        return [trial for trial, result in found if result is None]

    def train(self, trials: Iterable[Trial]) -> None:
        """Train the trials and keep the page up to date; each trial is asked for when its turn
        comes.
        """
        begun: dict[Path, Trial] = {}
        engine, shared = self.request.engine, self.shared
        give = shared if engine.here else PackedWorkbench.of(shared, self.request.out)

        def task(trial: Trial) -> TrainingTask:
            begun[trial.folder] = trial
            work = partial(give, partial(run_trial, trial))
            return TrainingTask(trial.planned.label, trial.seed, trial.folder, work)

        tasks = [task(t) for t in trials] if isinstance(trials, list) else map(task, trials)
        trained = results(tasks, engine, self.display, self.folder, shared.device)
        with contextlib.closing(trained):
            for done, result in trained:
                self._finish(begun[done.folder], result)
                self.page.changed()

    def _finish(self, trial: Trial, result: dict[str, Any], *, skipped: bool = False) -> None:
        # They may remain where the process was killed after writing the result.
        shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
        budgets = result["budgets"]
        loss = float(budgets[-1]["loss"]) if budgets else math.nan  # it diverged
        self.display.finish(trial.planned.label, trial.seed, loss, skipped=skipped)
