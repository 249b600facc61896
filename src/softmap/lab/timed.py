"""As many seeds as fit into a time, spent where they narrow the intervals most.

The next run is chosen when there is a worker for it, by the time that is left then, and started
only if it should fit. So the time is exceeded by one run at most, if that takes longer than earlier
ones. Speed is measured first, which predicts the cost of a run before there has been one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

from softmap.errors import SoftmapError
from softmap.lab.costs import costs, ended, makespan
from softmap.lab.folder import earlier
from softmap.lab.plan import PlannedModel
from softmap.lab.progress import duration
from softmap.lab.recipe import Recipe
from softmap.lab.seeds import further, joined
from softmap.lab.session import Session
from softmap.lab.trial import Trial
from softmap.report.planning import allocate, next_run
from softmap.report.words import runs_a_variant, si


def one_of_each(recipe: Recipe) -> Recipe:
    """Returns the recipe with a single seed, with which every comparison starts."""
    entries = [dataclasses.replace(entry, seeds=[]) for entry in recipe.variants]
    return dataclasses.replace(recipe, seeds=recipe.seeds[:1], control_seeds=[], variants=entries)


@dataclasses.dataclass(frozen=True)
class TimeBudget:
    """The time that a session may take.

    Attributes:
        seconds: the time in all.
        before: the time that earlier calls have spent.
        began: when this call began.
    """

    seconds: float
    before: float
    began: float

    @property
    def spent(self) -> float:
        """The seconds spent by all calls."""
        return self.before + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """The seconds left for runs that have not begun."""
        return self.seconds - self.spent

    def record(self) -> dict[str, float]:
        """Returns the entry for ``run.json``, where the next call finds it."""
        return {"seconds": self.seconds, "spent": self.spent}


def train_within(session: Session, wished: Sequence[int], began: float) -> None:
    """Train as many runs as fit into the session's time, one of each variant first.

    Args:
        wished: the seeds to use first.
        began: when the call began, by the monotonic clock.

    Raises ``SoftmapError`` where the time is too short for one run of each variant.
    """
    before = ((earlier(session.folder) or {}).get("time") or {}).get("spent", 0.0)
    clock = TimeBudget(session.request.seconds or 0.0, before, began)
    _check_enough(session, clock)
    session.write(time=clock.record())
    session.display.note(_outlook(session, clock))
    for mine in session.plan.models:
        session.waiting(session.trial(mine, seed) for seed in mine.seeds)
    try:
        session.train(_trials(session, wished, clock))
    finally:
        session.write(time=clock.record())


def _check_enough(session: Session, clock: TimeBudget) -> None:
    """Raise ``SoftmapError`` unless the time left allows every variant one run."""
    price = costs(session)
    lacking = [m.label for m in session.plan.models if not ended(session, m)]
    needed = makespan([price[label] for label in lacking], session.jobs)
    if lacking and needed > clock.left:
        spent = f", with {duration(clock.spent)} already spent" if clock.spent >= 1 else ""
        raise SoftmapError(
            f"--time: expected at least the {duration(needed)} that one run of each variant takes"
            f"{spent}, found {duration(clock.seconds)}"
        )


def _outlook(session: Session, clock: TimeBudget) -> str:
    price, jobs = costs(session), session.jobs
    done = {mine.label: len(ended(session, mine)) for mine in session.plan.models}
    added = allocate(clock.left * jobs, price, session.plan.control, done)
    runs = {label: done[label] + n for label, n in added.items()}
    more, each = sum(added.values()), [f"{label} {duration(s)}" for label, s in price.items()]
    return (
        f"--time {duration(clock.seconds)}: {duration(max(clock.left, 0))} left for about {more} "
        f"runs, {si(more * session.run_tokens)} tokens, {jobs} at once; then "
        f"{runs_a_variant(runs, session.plan.control)} (a run takes {', '.join(each)})"
    )


def _trials(session: Session, wished: Sequence[int], clock: TimeBudget) -> Iterator[Trial]:
    """Yields trials as long as one fits; each is recorded when it starts."""
    given: dict[str, set[int]] = {mine.label: set() for mine in session.plan.models}
    while clock.left > 0:
        taken = {m.label: given[m.label] | set(ended(session, m)) for m in session.plan.models}
        label = _next(session, {label: len(seeds) for label, seeds in taken.items()}, clock.left)
        if label is None:
            return
        mine = next(m for m in session.plan.models if m.label == label)
        seed = _seed(session, mine, wished, taken[label])
        given[label].add(seed)
        session.add({label: [seed]} if seed not in mine.seeds else {}, time=clock.record())
        yield session.trial(mine, seed)


def _next(session: Session, runs: dict[str, int], left: float) -> str | None:
    """Returns the label to train: one without any run first, else the best of those that fit."""
    for label, number in runs.items():
        if not number:
            return label
    fit = {label: seconds for label, seconds in costs(session).items() if seconds <= left}
    return next_run(runs, fit, session.plan.control) if fit else None


def _seed(session: Session, mine: PlannedModel, wished: Sequence[int], taken: set[int]) -> int:
    """Returns the seed of a run that was begun, else the next requested one, else the smallest."""
    tuning = session.shared.recipe.tuning.seeds
    folder = session.trial(mine, 0).folder.parent
    begun = sorted(int(p.parent.name.removeprefix("seed")) for p in folder.glob("seed*/trial.json"))
    choices = joined(begun, wished, further({*taken, *tuning}, 1))
    return next(seed for seed in choices if seed not in taken)
