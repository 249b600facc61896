"""The seconds that a run of a variant takes, evaluation included: as measured, or from its
speed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from softmap.errors import SoftmapError
from softmap.lab import files
from softmap.lab.plan import PlannedModel
from softmap.lab.progress import duration
from softmap.lab.session import Session
from softmap.lab.trial import Trial
from softmap.report.speed import read_speed
from softmap.report.words import count

EVALUATED = 1 / 3  #: cost of evaluating a token relative to training on it: forward alone


def ended(session: Session, planned: PlannedModel) -> dict[int, dict[str, Any]]:
    """Returns the results of a variant's runs by seed, those that diverged included."""
    paths = session.trial(planned, 0).folder.parent.glob("seed*/result.json")
    found = [files.read_json(path) for path in sorted(paths)]
    return {int(result["seed"]): result for result in found}


def run_seconds(results: Iterable[Mapping[str, Any]]) -> float | None:
    """Returns the median time of the finished runs; None if there are none."""
    known = [result for result in results if result["budgets"]]
    taken = [result.get("whole_seconds") or result["train_seconds"] for result in known]
    return float(median(taken)) if taken else None


def costs(session: Session) -> dict[str, float]:
    """Returns the seconds of one run of every variant.

    Raises ``SoftmapError`` where they are known neither from a run nor from a speed.
    """
    speeds = (read_speed(session.folder) or {"variants": {}})["variants"]
    found = {}
    for mine in session.plan.models:
        seconds = run_seconds(ended(session, mine).values())
        if seconds is None and mine.label in speeds:
            speed = speeds[mine.label]["tokens_per_second"]["median"]
            seconds = _tokens(session) / speed
        if seconds is None:
            raise SoftmapError(
                f"--time: the duration of a run of {mine.label} is unknown, since its speed could "
                "not be measured; train one run of each variant without --time first"
            )
        found[mine.label] = seconds
    return found


def announce(session: Session, trials: list[Trial]) -> None:
    """Report how long the trials will take, as far as that is known."""
    with contextlib.suppress(SoftmapError):
        price = costs(session)
        taken = makespan([price[trial.planned.label] for trial in trials], session.jobs)
        if trials:
            runs = count(len(trials), "run").lower()
            beside = f", {session.jobs} at a time" if session.jobs > 1 else ""
            session.display.note(f"{runs} to train, about {duration(taken)}{beside}")


def _tokens(session: Session) -> float:
    """Returns how many tokens a run is trained on."""
    shared = session.shared
    budgets = len(shared.recipe.training.budget_steps())
    heldout = len(shared.windows) * shared.recipe.model.context * budgets
    return session.run_tokens + EVALUATED * heldout


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Returns how long runs of these seconds take, ``jobs`` at a time, the longest first."""
    busy = [0.0] * jobs
    for each in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += each
    return max(busy)
