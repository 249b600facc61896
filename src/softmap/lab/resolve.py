"""Seeds until the intervals are as narrow as asked: Stein's two-stage rule (1945).

A first stage of fixed seeds gives the spread between runs, and nothing else is looked at: the
spread says how many runs there will be in all. The intervals then keep the first stage's spread and
its degrees of freedom, which ``run.json`` therefore names, and hold what they promise whatever the
true spread is. Nothing but the first stage is kept of the decision: each call makes it again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from math import sqrt

from softmap.errors import SoftmapError
from softmap.lab.costs import announce, run_seconds
from softmap.lab.facts import still_there
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

LEAST = 2  #: seeds of a first stage


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
    """Train the first stage, then what its spread asks for.

    Raises ``SoftmapError`` where that is more than ``--at-most``, and where variants of the run are
    missing in the call: all of a page are one family.
    """
    half_width = session.request.resolve or 0.0
    before = earlier(session.folder) or {}
    labels = [planned.label for planned in session.plan.models]
    others = still_there(session.folder, before, labels)
    if others:
        raise SoftmapError(
            f"--resolve: {session.folder} has other variants, too ({listed(others)}): softmap "
            f"compare {session.folder} --resolve {half_width:g} takes all of them"
        )
    first = {planned.label: list(planned.seeds) for planned in session.plan.models}
    first |= (before.get("resolve") or {}).get("first_seeds", {})
    session.write(resolve={"half_width": half_width, "first_seeds": first})
    session.display.note(_first_said(session, first))
    waiting = session.waiting(session.trials())
    announce(session, waiting)
    session.train(waiting)
    while more := _more(session, half_width):
        session.train(session.add(more))


def _more(session: Session, half_width: float) -> dict[str, list[int]]:
    """Seeds that are still to be trained, by label; what they cost is said."""
    run = load(session.folder)
    family = Family(run, Question())
    if family.control not in family.trials or len(family.trials) < 2:
        raise SoftmapError(
            f"--resolve: expected runs of {family.control} and of a variant, found that all of "
            f"the first stage diverged but those of {listed(list(family.trials))}"
        )
    all_runs = family.compare(family.final)
    first = Comparison(all_runs.first, family.control, family.question, family.check)
    needed = _needed(first, half_width, all_runs.sizes)
    missing = {label: n - all_runs.sizes[label] for label, n in needed.items()}
    missing = {label: n for label, n in missing.items() if n > 0}
    if missing:
        _check_cap(session, first, needed, run)
    session.display.note(_second_said(session, first, needed, missing, run))
    return {label: further(_tried(session, run, label), n) for label, n in missing.items()}


def runs_needed(
    first: Comparison, half_width: float, sizes: Mapping[str, int]
) -> dict[str, int] | None:
    """Runs of each label in all, after which no interval is wider; None where they are too many.

    The control gets sqrt(k) times the runs of each of k variants, the cheapest ratio.

    Args:
        first: of the first stage's runs alone.
        sizes: runs that there are in any case.
    """
    total = stein_runs(first, half_width, sqrt(len(first.others)))
    while total is not None and widest(first, total, sizes) > half_width:
        total = {label: n + 1 for label, n in total.items()}  # runs beyond the plan move c a little
    return total


def widest(first: Comparison, total: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """The largest half-width that the first stage's spread gives to so many runs."""
    planned = copy.copy(first)
    planned.sizes = {label: max(n, sizes.get(label, 0)) for label, n in total.items()}
    answers = planned.answers().values()
    return max((a.high - a.low) / 2 for a in answers if a.high is not None and a.low is not None)


def _needed(first: Comparison, half_width: float, sizes: Mapping[str, int]) -> dict[str, int]:
    """[`runs_needed`][], or ``SoftmapError`` where no number will do."""
    if first.spreads.pooled is None:
        raise SoftmapError(
            "--resolve: the first stage has no spread to go by: no two of its runs differ"
        )
    found = runs_needed(first, half_width, sizes)
    if found is None:
        raise SoftmapError(
            f"--resolve {half_width:g} needs more than {MOST:,} runs ({_spread_said(first)}): give "
            "a wider one"
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
            f"({_spread_said(first)}), more than --at-most {most}: --at-most {tried} trains them, "
            "a wider --resolve or more --seeds in the first stage need fewer"
        )


def _tried(session: Session, run: Run, label: str) -> set[int]:
    """Seeds that have ended, and those of the tuning, which no run of the comparison takes."""
    ended = {*run.trials.get(label, {}), *run.diverged.get(label, {})}
    return ended | set(session.shared.recipe.tuning.seeds)


def _spread_said(first: Comparison) -> str:
    pool = first.spreads.pooled
    df = "" if pool is None else f" with {pool.df:g} degrees of freedom"
    return f"standard deviation between runs {pool.stderr if pool else 0:.3g}{df}"


def _first_said(session: Session, first: dict[str, list[int]]) -> str:
    runs = {label: len(seeds) for label, seeds in first.items()}
    tokens = sum(runs.values()) * session.run_tokens
    return (
        f"first stage: {runs_a_variant(runs, session.plan.control)}, {sum(runs.values())} runs, "
        f"{si(tokens)} tokens; their spread says how many more --resolve "
        f"{session.request.resolve:g} takes, at most {session.request.at_most} of each variant"
    )


def _second_said(
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
        f"second stage: {number} ({_spread_said(first)}): {more} more, "
        f"{si(more * session.run_tokens)} tokens, about {duration(seconds / session.jobs)}"
    )
