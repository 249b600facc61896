"""The choice among tried peaks: which is best, which is taken, whether the grid has to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, sqrt

TIE = 0.03  #: nats; a seed moves a small model's loss by about as much (results/recipe-spread.json)
WIDER = 2  #: peaks that are added beyond each end of the grid, at most

Tried = Mapping[float, Sequence[float | None]]  #: by peak the loss of each run; None: it diverged


def diverged(losses: Sequence[float | None]) -> int:
    """Returns how many of the runs diverged."""
    return sum(loss is None for loss in losses)


def mean(losses: Sequence[float | None]) -> float:
    """Returns the mean of the runs that did not diverge; infinite where all did."""
    finite = [loss for loss in losses if loss is not None]
    return sum(finite) / len(finite) if finite else inf


def best(tried: Tried) -> float | None:
    """Returns the peak with the lowest mean; one with a diverged run only if every other has
    one too.

    None where every run diverged.
    """
    known = [peak for peak, losses in tried.items() if mean(losses) < inf]
    return min(known, key=lambda p: (diverged(tried[p]), mean(tried[p])), default=None)


def chosen(tried: Tried) -> float | None:
    """Returns the lowest peak that the runs cannot tell from the best one: within ``TIE /
    sqrt(runs)``.

    The higher of two such peaks is nearer to where another seed diverges.
    """
    top = best(tried)
    if top is None:
        return None
    reach = mean(tried[top]) + TIE / sqrt(len(tried[top]))
    equal = diverged(tried[top])
    return min(p for p, y in tried.items() if diverged(y) == equal and mean(y) <= reach)


def at_edge(tried: Tried) -> bool:
    """Whether the best peak is the lowest or the highest that was tried."""
    return len(tried) > 1 and best(tried) in (min(tried), max(tried))


def wider(tried: Tried, grid: Sequence[float]) -> float | None:
    """Returns the next peak beyond the edge at which the best one is, by the grid's own factor
    there.

    None where there is no need, or ``WIDER`` have been added at that end.
    """
    if not at_edge(tried):
        return None
    low, high = min(tried), max(tried)
    if best(tried) == low:
        added, peak = sum(p < grid[0] for p in tried), low * grid[0] / grid[1]
    else:
        added, peak = sum(p > grid[-1] for p in tried), high * grid[-1] / grid[-2]
    return float(f"{peak:.6g}") if added < WIDER else None
