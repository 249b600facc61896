"""How many runs a question needs, and what a given number of runs can see.

All of it is for k variants and one control with one spread: n runs of each variant, n0 of the
control, a standard deviation estimated with df degrees of freedom, and Dunnett's critical value c.

    half-width      c s sqrt(1/n + 1/n0)
    power           P(|T| > c), T noncentral t with shift difference / (sd sqrt(1/n + 1/n0)),
                    integrated here over s (scipy's noncentral t is NaN at large shifts)
    Stein's rule    from a first stage with spread s and df: the least n with half-width <= h,
                    c taken at the first stage's df. The final interval keeps that s and that c;
                    then its coverage is exact, whatever the true spread (Stein 1945)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, sqrt

from scipy import optimize, stats
from scipy.special import ndtr

from softmap.errors import SoftmapError
from softmap.report import dunnett
from softmap.report.answers import Comparison
from softmap.report.spread import Spreads

MOST = 10_000  # runs of a plan


@dataclass(frozen=True)
class Design:
    """n runs of each of k variants, n0 of the control, and the df of a difference's spread."""

    runs: int
    control: int
    df: float
    comparisons: int = 1
    level: float = 0.95

    def critical(self, sides: int = 2) -> float:
        """Returns Dunnett's critical value."""
        b = dunnett.correlation(1 / self.control, 1 / self.runs)
        return dunnett.between((b,) * self.comparisons, self.df, self.level, sides)

    @property
    def scale(self) -> float:
        """Standard error of a difference, in standard deviations between runs."""
        return sqrt(1 / self.runs + 1 / self.control)

    def more(self, extra: int) -> Design:
        """Returns the same design with ``extra`` more runs of every variant and of the control."""
        return fresh(self.runs + extra, self.comparisons, self.control + extra, self.level)


def fresh(
    runs: int, comparisons: int = 1, control: int | None = None, level: float = 0.95
) -> Design:
    """Returns the design of planned runs, all of one spread; the control has as many runs by
    default.

    A single run of everything has no spread: that counts as one degree of freedom.
    """
    n0 = runs if control is None else control
    sizes = {"": n0} | {str(i): runs for i in range(comparisons)}
    error = Spreads.planned(sizes).error({"": n0, "0": runs})
    return Design(runs, n0, error.df if error else 1.0, comparisons, level)


def power(design: Design, sd: float, difference: float) -> float:
    """Returns how likely a variant with this true difference is called lower or higher."""
    spread, weights = dunnett.spread_nodes(design.df)
    shift, c = difference / (sd * design.scale), design.critical()
    return float(weights @ (ndtr(shift - c * spread) + ndtr(-shift - c * spread)))


def equality_power(design: Design, sd: float, margin: float) -> float:
    """Returns how likely a variant with no difference is called equal within the margin."""
    spread, weights = dunnett.spread_nodes(design.df)
    reach = margin / (sd * design.scale) - design.critical(sides=1) * spread
    return float(weights @ (2 * ndtr(reach.clip(0)) - 1))


def visible_difference(design: Design, sd: float, wanted: float = 0.8) -> float:
    """Returns the smallest true difference that is found with this power."""
    unit = sd * design.scale
    high = unit * (design.critical() + 3) * 100
    gap: Callable[[float], float] = lambda d: power(design, sd, d) - wanted  # noqa: E731
    return float(optimize.brentq(gap, 0.0, high, xtol=1e-9 * high)) if gap(0.0) < 0 else 0.0


def more_runs(design: Design, sd: float, difference: float, wanted: float = 0.8) -> int | None:
    """Returns how many more runs of every variant and of the control show a difference; None: too
    many.
    """
    return _least(0, lambda n: power(design.more(n), sd, difference) >= wanted)


def more_for_equality(design: Design, sd: float, margin: float, wanted: float = 0.8) -> int | None:
    """Returns how many more runs show equality within the margin if there is no difference."""
    return _least(0, lambda n: equality_power(design.more(n), sd, margin) >= wanted)


def runs_needed(
    sd: float,
    difference: float,
    *,
    df: float | None = None,
    power_wanted: float = 0.8,
    comparisons: int = 1,
    control_ratio: float = 1.0,
    level: float = 0.95,
) -> int:
    """Returns the runs of a variant that show a difference; the control has ``control_ratio`` times
    as many.

    Args:
        sd: standard deviation between runs, as known or guessed.
        difference: true difference to be found, nats.
        df: degrees of freedom of the final interval; by default those of the planned runs.

    Raises:
        SoftmapError: numbers that are not above 0, or a plan of more than 10,000 runs.
    """
    _above_zero(sd=sd, difference=difference, control_ratio=control_ratio)

    def enough(n: int) -> bool:
        design = fresh(n, comparisons, ceil(control_ratio * n), level)
        design = design if df is None else replace(design, df=df)
        return power(design, sd, difference) >= power_wanted

    found = _least(2, enough)
    if found is None:
        raise SoftmapError(
            f"difference: expected one that {MOST:,} runs can show, found {difference:g} beside a "
            f"standard deviation of {sd:g}"
        )
    return found


def stein_runs(first: Comparison, half_width: float, ratio: float = 1.0) -> dict[str, int] | None:
    """Returns the total runs of each label so that no interval is wider; None: more than 10,000.

    The control gets ``ratio`` times the runs of a variant. A variant that stays apart from the
    pool gets a number of its own, and more of the control if it needs that. Afterwards the page
    must be given the same first stage (``Comparison(..., first=...)``, in ``run.json``
    ``resolve.first_seeds`` by label), whose spread the intervals keep.
    """
    _above_zero(half_width=half_width, ratio=ratio)

    def narrow(label: str, runs: int, control: int) -> bool:
        half = first.half_width(label, runs, control)
        return half is not None and half <= half_width

    n0 = first.sizes[first.control]
    shared = [v for v in first.others if v not in first.spreads.apart] or first.others
    start = max(first.sizes[v] for v in shared)
    n = _least(start, lambda n: all(narrow(v, n, max(n0, ceil(ratio * n))) for v in shared))
    if n is None:
        return None
    control = max(n0, ceil(ratio * n))
    total = dict.fromkeys(shared, n)
    for v in (v for v in first.others if v not in shared):
        own: int | None = None
        while own is None and control <= MOST:
            own = _least(first.sizes[v], partial(narrow, v, control=control))
            control = control if own else 2 * control  # the control's own error is too large
        if own is None:
            return None
        total[v] = own
    return {first.control: control} | total


def allocate(
    seconds: float, costs: Mapping[str, float], control: str, done: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Returns how many more runs of each variant fit into a time, spent where intervals narrow
    most.

    Each next run is the one that lowers the sum of squared half-widths most for its seconds. The
    control is in every difference, so that it ends near sqrt(k) times the runs of a variant.

    Args:
        seconds: of all workers together.
        costs: seconds of one run of each label, the control included.
        done: runs that exist.
    """
    runs = {label: (done or {}).get(label, 0) for label in costs}
    added = dict.fromkeys(costs, 0)
    while True:
        fit = [label for label, cost in costs.items() if cost <= seconds]
        if not fit:
            return added
        best = next_run(runs, {label: costs[label] for label in fit}, control)
        runs, seconds = _one_more(runs, best), seconds - costs[best]
        added[best] += 1


def next_run(runs: Mapping[str, int], costs: Mapping[str, float], control: str) -> str:
    """Returns the label whose next run lowers the sum of squared half-widths most for its seconds.

    Args:
        runs: of each label, the control included, that there are.
        costs: of those to choose from.
    """
    now = _badness(runs, control)
    return max(costs, key=lambda v: (now - _badness(_one_more(runs, v), control)) / costs[v])


def _one_more(runs: Mapping[str, int], label: str) -> dict[str, int]:
    return {v: n + (v == label) for v, n in runs.items()}


def _badness(runs: Mapping[str, int], control: str) -> float:
    """Returns the sum of squared half-widths in units of the spread; a variant without a run counts
    as far off.
    """
    df = sum(max(n - 1, 0) for n in runs.values())
    t = float(stats.t.isf(0.025, df)) if df else 100.0
    ends = {v: 1 / n if n else 100.0 for v, n in runs.items()}
    return t * t * sum(ends[v] + ends[control] for v in runs if v != control)


def _least(start: int, enough: Callable[[int], bool]) -> int | None:
    """Returns the least number from ``start`` on that is enough, by doubling and bisection; None
    above MOST.
    """
    low, high = start - 1, start
    while not enough(high):
        low, high = high, max(2 * high, 1)
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _above_zero(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise SoftmapError(f"{name}: expected a number above 0, found {value:g}")
