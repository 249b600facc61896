"""The choice among tried peaks: which is best, which is chosen, whether the grid must be
extended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, sqrt

TIE = 0.03  #: nats; about as much as a seed changes a small model (results/recipe-spread.json)
WIDER = 2  #: the most peaks that are added beyond each end of the grid

Tried = Mapping[float, Sequence[float | None]]  #: the loss of each run by peak; None: diverged


def diverged(losses: Sequence[float | None]) -> int:
    """Returns how many of the runs diverged."""
    return sum(loss is None for loss in losses)


def mean(losses: Sequence[float | None]) -> float:
    """Returns the mean of the runs that did not diverge; infinite where all did."""
    finite = [loss for loss in losses if loss is not None]
    return sum(finite) / len(finite) if finite else inf


def best(tried: Tried) -> float | None:
    """Returns the peak with the lowest mean; one with a diverged run only if every other has one
    too.

    None where every run diverged.
    """
    known = [peak for peak, losses in tried.items() if mean(losses) < inf]
    return min(known, key=lambda p: (diverged(tried[p]), mean(tried[p])), default=None)


def chosen(tried: Tried) -> float | None:
    """Returns the lowest peak whose loss is within ``TIE / sqrt(runs)`` of the best.

    The runs cannot distinguish such peaks, and the higher ones are closer to where another seed
    diverges.
    """
    top = best(tried)
    if top is None:
        return None
    reach = mean(tried[top]) + TIE / sqrt(len(tried[top]))
    equal = diverged(tried[top])
    return min(p for p, y in tried.items() if diverged(y) == equal and mean(y) <= reach)


def at_edge(tried: Tried) -> bool:
    """Returns whether the best peak is the lowest or the highest that was tried."""
    return len(tried) > 1 and best(tried) in (min(tried), max(tried))


def wider(tried: Tried, grid: Sequence[float]) -> float | None:
    """Returns the next peak beyond the edge at which the best one is, by the grid's own factor
    there.

    None where it is not at an edge, or ``WIDER`` peaks have been added at that end.
    """
    if not at_edge(tried):
        return None
    low, high = min(tried), max(tried)
    if best(tried) == low:
        added, peak = sum(p < grid[0] for p in tried), low * grid[0] / grid[1]
    else:
        added, peak = sum(p > grid[-1] for p in tried), high * grid[-1] / grid[-2]
    return float(f"{peak:.6g}") if added < WIDER else None
