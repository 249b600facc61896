"""A schedule as data: the list of segments that the training loop executes in order.

wsd-s, cyclic-cosine   one segment per budget, each from the end of the one before
wsd                    per budget a segment of undecayed trunk, then its decay, which is discarded
cosine                 one segment
cosine-oracle          one segment per budget, each from the initial state
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

from softmap.errors import SoftmapError, nearest
from softmap.train import schedules
from softmap.train.schedules import Terms

Schedule = Literal["wsd-s", "wsd", "cosine", "cyclic-cosine", "cosine-oracle"]
Position = tuple[int, int]
"""(index of a segment, steps done): a point in a plan. Positions are in the order of training."""

START: Position = (0, 0)


@dataclass(frozen=True)
class Segment:
    """A consecutive part of a training.

    Attributes:
        origin: the position whose state it starts from; ``START`` is the initial state.
        start, stop: steps done before its first and after its last step.
        lr: the learning rate of a step, ``start <= step < stop``.
        budget: the index of the budget that ends with it; None for a part of the trunk.
        decay: the first step of that budget's decay, for schedules with a stable phase before it.
    """

    origin: Position
    start: int
    stop: int
    lr: Callable[[int], float]
    budget: int | None
    decay: int | None = None


def plan(schedule: Schedule, terms: Terms) -> list[Segment]:
    """Returns the segments of ``schedule``; raises SoftmapError where schedule and terms do not
    fit.
    """
    if schedule not in get_args(Schedule):
        raise SoftmapError(
            f"schedule: expected one of {', '.join(get_args(Schedule))}, found {schedule!r}"
            + nearest(str(schedule), get_args(Schedule))
        )
    if schedule == "wsd":
        return _branches(terms)
    if schedule == "cosine-oracle":
        return [
            Segment(START, 0, one.budgets[0], partial(schedules.cosine, terms=one), index)
            for index, one in enumerate(schedules.cosine_oracle(terms))
        ]
    if schedule == "cosine" and len(terms.budgets) > 1:
        raise SoftmapError(
            f"schedule cosine: expected one budget, found {list(terms.budgets)}; "
            f"cosine-oracle and cyclic-cosine take several"
        )
    rates = {"wsd-s": schedules.wsd_s, "cyclic-cosine": schedules.cyclic_cosine}
    lr = partial(rates.get(schedule, schedules.cosine), terms=terms)
    lr(0)  # refuses terms that the schedule cannot use before any training is spent on them
    chain = _chain(terms, lr)
    if schedule != "wsd-s":
        return chain
    starts = schedules.decay_starts(terms)
    return [replace(one, decay=start) for one, start in zip(chain, starts, strict=True)]


def _chain(terms: Terms, lr: Callable[[int], float]) -> list[Segment]:
    stops = terms.budgets
    return [
        Segment((i - 1, stops[i - 1]) if i else START, stops[i - 1] if i else 0, stop, lr, i)
        for i, stop in enumerate(stops)
    ]


def _branches(terms: Terms) -> list[Segment]:
    segments: list[Segment] = []
    origin = START
    for index, start in enumerate(schedules.decay_starts(terms)):
        lr = partial(schedules.wsd, terms=terms, budget=index)
        segments.append(Segment(origin, origin[1], start, lr, None))
        origin = (len(segments) - 1, start)
        segments.append(Segment(origin, start, terms.budgets[index], lr, index, decay=start))
    return segments


def spent(segments: list[Segment], budget: int) -> int:
    """Returns the steps trained until ``budget`` (an index) is complete, discarded decays included.

    That is what this budget and all budgets before it cost together.
    """
    last = _of_budget(segments, budget)
    return sum(segment.stop - segment.start for segment in segments[: last + 1])


def mean_rate(segments: list[Segment], budget: int | None = None) -> float:
    """Returns the mean learning rate of the steps that led to a budget's weights, by default the
    last.
    """
    last = max(s.budget for s in segments if s.budget is not None)
    path = [segments[_of_budget(segments, last if budget is None else budget)]]
    while path[-1].origin != START:
        path.append(segments[path[-1].origin[0]])
    rates = [segment.lr(step) for segment in path for step in range(segment.start, segment.stop)]
    return sum(rates) / len(rates)


def _of_budget(segments: list[Segment], budget: int) -> int:
    return next(index for index, segment in enumerate(segments) if segment.budget == budget)


def pinned(segments: list[Segment], current: int) -> set[Position]:
    """Returns the positions whose states segment ``current`` or a later one starts from again."""
    return {
        segment.origin
        for index, segment in enumerate(segments)
        if index >= max(current, 1) and segment.origin != (index - 1, segments[index - 1].stop)
    }
