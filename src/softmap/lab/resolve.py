"""Adds seeds until the intervals are as narrow as requested: Stein's two-stage procedure (1945).

A first stage of fixed seeds estimates the spread between runs, and nothing else of it is used: the
spread determines the total number of runs. The intervals then keep the first stage's spread and
degrees of freedom, which ``run.json`` therefore records, and have their nominal coverage whatever
the true spread is. Nothing but the first stage is recorded: each call repeats the decision.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import sqrt

from softmap.errors import SoftmapError
from softmap.lab.costs import announce, run_seconds
from softmap.lab.facts import kept_variants
from softmap.lab.folder import earlier
from softmap.lab.progress import duration
from softmap.lab.recipe import Recipe
from softmap.lab.seeds import further
from softmap.lab.session import Session
from softmap.report.answers import Comparison, Question
from softmap.report.family import Family
from softmap.report.load import Run, load
from softmap.report.planning import MOST, stein_runs
from softmap.report.words import listed, runs_a_variant, si

LEAST = 2  #: the fewest seeds of a first stage


def check_stages(recipe: Recipe) -> None:
    """Raise ``SoftmapError`` for a recipe without a first stage, or with nothing to resolve."""
    if len(recipe.variants) < 2:
        raise SoftmapError("--resolve: expected a variant beside the control, found none")
    fewest = min(len(recipe.seeds_of(entry, control=False)) for entry in recipe.variants)
    if fewest < LEAST:
        raise SoftmapError(
            f"--resolve: expected at least {LEAST} seeds of each variant in the first stage, "
            f"better 3 to 5, found {fewest} (--seeds 3)"
        )


def resolve(session: Session) -> None:
    """Train the first stage, then the runs that its spread requires.

    Raises ``SoftmapError`` where these are more than ``--at-most``, and where variants of the run
    are missing in the call: all of a page are one family.
    """
    half_width = session.request.resolve or 0.0
    before = earlier(session.folder) or {}
    labels = [planned.label for planned in session.plan.models]
    others = kept_variants(session.folder, before, labels)
    if others:
        raise SoftmapError(
            f"--resolve: {session.folder} also has other variants ({listed(others)}): softmap "
            f"compare {session.folder} --resolve {half_width:g} includes all of them"
        )
    first = {planned.label: list(planned.seeds) for planned in session.plan.models}
    first |= (before.get("resolve") or {}).get("first_seeds", {})
    session.write(resolve={"half_width": half_width, "first_seeds": first})
    session.display.note(_first_stage(session, first))
    waiting = session.waiting(session.trials())
    announce(session, waiting)
    session.train(waiting)
    while more := _more(session, half_width):
        session.train(session.add(more))


def _more(session: Session, half_width: float) -> dict[str, list[int]]:
    """Returns the seeds that are still to be trained, by label, and reports their cost."""
    run = load(session.folder)
    family = Family(run, Question())
    if family.control not in family.trials or len(family.trials) < 2:
        raise SoftmapError(
            f"--resolve: expected finished runs of {family.control} and of a variant, found that "
            f"all of the first stage diverged except {listed(list(family.trials))}"
        )
    all_runs = family.compare(family.final)
    first = Comparison(all_runs.first, family.control, family.question, family.check)
    needed = _needed(first, half_width, all_runs.sizes)
    missing = {label: n - all_runs.sizes[label] for label, n in needed.items()}
    missing = {label: n for label, n in missing.items() if n > 0}
    if missing:
        _check_cap(session, first, needed, run)
    session.display.note(_second_stage(session, first, needed, missing, run))
    return {label: further(_tried(session, run, label), n) for label, n in missing.items()}


def runs_needed(
    first: Comparison, half_width: float, sizes: Mapping[str, int]
) -> dict[str, int] | None:
    """Returns the total runs of each label after which no interval is wider; None where too many.

    The control gets sqrt(k) times the runs of each of k variants, which is the cheapest ratio.

    Args:
        first: the comparison of the first stage's runs alone.
        sizes: the numbers of existing runs.
    """
    total = stein_runs(first, half_width, sqrt(len(first.others)))
    while total is not None and widest(first, total, sizes) > half_width:
        total = {label: n + 1 for label, n in total.items()}  # extra runs change c slightly
    return total


def widest(first: Comparison, total: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Returns the largest half-width that the first stage's spread gives to these numbers of
    runs.
    """
    planned = copy.copy(first)
    planned.sizes = {label: max(n, sizes.get(label, 0)) for label, n in total.items()}
    answers = planned.answers().values()
    return max((a.high - a.low) / 2 for a in answers if a.high is not None and a.low is not None)


def _needed(first: Comparison, half_width: float, sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the runs needed; raises ``SoftmapError`` where no number suffices."""
    if first.spreads.pooled is None:
        raise SoftmapError("--resolve: the first stage has no spread: no two of its runs differ")
    found = runs_needed(first, half_width, sizes)
    if found is None:
        raise SoftmapError(
            f"--resolve {half_width:g} needs more than {MOST:,} runs ({_spread(first)}): use a "
            "larger width"
        )
    return found


def _check_cap(session: Session, first: Comparison, needed: dict[str, int], run: Run) -> None:
    asked, most = session.request.resolve, session.request.at_most
    lost = {label: len(run.diverged.get(label, {})) for label in needed}
    tried = max(n + lost[label] for label, n in needed.items())
    if tried > most:
        died = f", beside {sum(lost.values())} that diverged" if any(lost.values()) else ""
        raise SoftmapError(
            f"--resolve {asked:g} needs {runs_a_variant(needed, first.control)}{died} "
            f"({_spread(first)}), more than --at-most {most}: --at-most {tried} trains them, "
            "a larger --resolve or more --seeds in the first stage need fewer"
        )


def _tried(session: Session, run: Run, label: str) -> set[int]:
    """Returns the seeds that have ended, and those of the tuning, which no run of the comparison
    uses.
    """
    ended = {*run.trials.get(label, {}), *run.diverged.get(label, {})}
    return ended | set(session.shared.recipe.tuning.seeds)


def _spread(first: Comparison) -> str:
    pool = first.spreads.pooled
    df = "" if pool is None else f" with {pool.df:g} degrees of freedom"
    return f"standard deviation between runs {pool.stderr if pool else 0:.3g}{df}"


def _first_stage(session: Session, first: dict[str, list[int]]) -> str:
    runs = {label: len(seeds) for label, seeds in first.items()}
    tokens = sum(runs.values()) * session.run_tokens
    return (
        f"first stage: {runs_a_variant(runs, session.plan.control)}, {sum(runs.values())} runs, "
        f"{si(tokens)} tokens; their spread determines how many more --resolve "
        f"{session.request.resolve:g} needs, at most {session.request.at_most} of each variant"
    )


def _second_stage(
    session: Session, first: Comparison, needed: dict[str, int], missing: dict[str, int], run: Run
) -> str:
    number = runs_a_variant(needed, first.control)
    if not missing:
        width = widest(first, needed, {v: len(run.trials[v]) for v in needed})
        return f"resolved: {number}, no interval is wider than \N{PLUS-MINUS SIGN} {width:.2g}"
    more = sum(missing.values())
    seconds = sum(
        n * (run_seconds(trial.result for trial in run.trials[label].values()) or 0.0)
        for label, n in missing.items()
    )
    return (
        f"second stage: {number} ({_spread(first)}): {more} more, "
        f"{si(more * session.run_tokens)} tokens, about {duration(seconds / session.jobs)}"
    )
