"""Models of a base: trained where they are missing, whatever study needs them, and never twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softmap.claims._bases import Base
from softmap.lab.compare import opened
from softmap.lab.page import Page
from softmap.lab.request import Request
from softmap.lab.trial import Trial
from softmap.ledger.workspace import Workspace
from softmap.report import load
from softmap.report.load import Budget, read_result


class _NoPage(Page):
    """A page that is never written: the ledger has its own."""

    def refresh(self) -> None:
        pass


def missing(workspace: Workspace, base: Base, runs: Mapping[str, int]) -> list[tuple[str, int]]:
    """Returns the variants and seeds that have no result yet."""
    return [
        (variant, seed)
        for variant, number in runs.items()
        for seed in range(number)
        if not (workspace.trial(base, variant, seed) / "result.json").exists()
    ]


def train(workspace: Workspace, base: Base, runs: Mapping[str, int]) -> None:
    """Train what is missing, one run of each variant first.

    Raises ``SoftmapError`` where the folder's models have other settings, ``Interrupted`` after
    Ctrl-C or SIGTERM: the next call continues what was begun.
    """
    if not missing(workspace, base, runs):
        return
    recipe = workspace.recipe(base, runs)
    way_out = "--runs FOLDER keeps it and starts another"
    request = Request(
        workspace.folder,
        workspace.command,
        jobs=workspace.jobs,
        cluster=workspace.cluster,
        way_out=way_out,
    )
    with opened(recipe, request, workspace.display(), _NoPage) as session:
        wanted = [trial for trial in session.trials() if _is_wanted(trial, runs)]
        steps = session.shared.recipe.training.steps
        session.display.plan(_count(wanted), steps, session.run_tokens // steps)
        session.write()
        session.train(session.waiting(wanted))


def _is_wanted(trial: Trial, runs: Mapping[str, int]) -> bool:
    return trial.seed < runs.get(trial.planned.label, 0)


def _count(trials: list[Trial]) -> dict[str, int]:
    labels = [trial.planned.label for trial in trials]
    return {label: labels.count(label) for label in dict.fromkeys(labels)}


def results(
    workspace: Workspace, base: Base, variant: str, number: int
) -> dict[int, dict[str, Any]]:
    """Returns the results of a variant's runs by seed; ``budgets`` is empty for a diverged one."""
    paths = {seed: workspace.trial(base, variant, seed) / "result.json" for seed in range(number)}
    return {seed: read_result(path) for seed, path in paths.items() if Path(path).exists()}


def curve(label: str, seed: int, result: Mapping[str, Any]) -> load.FinishedTrial:
    """Returns a result in the form of the report's statistics, with its decayed points alone."""
    nothing = np.zeros((0, 0))
    budgets = [
        Budget(one["tokens"], one["seconds"], one["flops"], one["loss"], nothing)
        for one in sorted(result["budgets"], key=lambda one: float(one["tokens"]))
    ]
    return load.FinishedTrial(label, seed, dict(result), budgets, [], None)
