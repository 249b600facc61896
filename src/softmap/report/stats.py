"""How sure a number is: intervals over held-out text and seeds, and tokens at equal loss.

Pure numpy, no file and no model. Shape letters: S seeds, W held-out windows (in the order of the
text), T positions in a window, B blocks of neighbouring windows, N budgets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

LEVEL = 0.95
BLOCKS = 32


@dataclass(frozen=True)
class Interval:
    """A mean with its standard error and 95 % confidence limits, in the units of the values."""

    mean: float
    stderr: float
    low: float
    high: float
    seeds: int
    windows: int

    @property
    def sign(self) -> int:
        """-1 or +1 where the interval lies on one side of zero, 0 where it covers zero."""
        return -1 if self.high < 0 else int(self.low > 0)


@cache
def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t with ``dof`` > 0 degrees of freedom, to about 1e-6.

    With t = sqrt(dof) tan(a), the density of t becomes cos(a)^(dof - 1) on (-pi/2, pi/2), which is
    smooth and bounded, so that a fine Simpson sum gives the distribution function.
    """
    angle = np.linspace(0.0, np.pi / 2, 40_001)
    density = np.cos(angle) ** (dof - 1) if dof != 1 else np.ones_like(angle)
    # Simpson over pairs of steps: mass[i] is the integral from 0 to angle[2 i].
    panels = density[:-2:2] + 4 * density[1:-1:2] + density[2::2]
    mass = np.concatenate([[0.0], np.cumsum(panels)])
    upper = abs(2 * probability - 1) * mass[-1]
    value = sqrt(dof) * float(np.tan(np.interp(upper, mass, angle[::2])))
    return value if probability >= 0.5 else -value


def block_variance(values_W: Array, blocks: int = BLOCKS) -> tuple[float, int]:
    """Variance of the mean of serially correlated values, and its degrees of freedom.

    Windows from one document resemble each other, so that the plain var / W is too small. The
    windows are cut into at most ``blocks`` runs of neighbours, and the variance is that of a mean
    of independent blocks of sizes n_b with means m_b::

        var = B / (B - 1) * sum_b (n_b (m_b - m) / W)^2,     B - 1 degrees of freedom

    With W <= ``blocks`` each window is its own block, and this is exactly var / W. A single
    window says nothing about its own error: the variance is infinite.
    """
    count = min(blocks, len(values_W))
    if count < 2:
        return inf, 1
    mean = values_W.mean()
    totals = np.array([np.sum(part - mean) for part in np.array_split(values_W, count)])
    return float(count / (count - 1) * np.sum((totals / len(values_W)) ** 2)), count - 1


def interval(values_SW: ArrayLike) -> Interval:
    """95 % interval of the mean over windows (and seeds, where there are at least two).

    Every seed is judged on the same windows, so that the two are crossed::

        y_sw = mu + seed_s + window_w + noise_sw
        Var(mean) = Var(seed)/S + Var(window)/W + Var(noise)/(S W)

    The spread of the S seed means estimates the first and the last term, the spread of the W
    window means (by blocks, see :func:`block_variance`) the second and the last; their sum is the
    squared standard error, slightly too large since it holds the last term twice. The two parts
    have very different degrees of freedom (1 for two seeds, 31 for the blocks), and pooling them
    (Satterthwaite) is too bold when two seeds agree by luck. So each half-width is taken with its
    own t quantile, and the two are added in quadrature::

        half^2 = (t[S-1] sqrt(v_seed))^2 + (t[B-1] sqrt(v_window))^2

    which is exact when either source dominates, never narrower than either t interval alone, and
    covers at least as often as it says in between (``tests/report/test_stats.py`` simulates it).

    With one seed only the windows count: the interval then says how far the difference would move
    on other text of the same kind, and nothing about other initialisations or data orders.

    Args:
        values_SW: (S, W) one value per seed and held-out window, e.g. paired loss differences.
    """
    values = np.atleast_2d(np.asarray(values_SW, dtype=np.float64))
    seeds, windows = values.shape
    tail = 0.5 + LEVEL / 2
    variance, dof = block_variance(values.mean(axis=0))
    half_squared = variance * t_quantile(tail, dof) ** 2
    if seeds > 1:
        between = float(values.mean(axis=1).var(ddof=1)) / seeds
        variance += between
        half_squared += between * t_quantile(tail, seeds - 1) ** 2
    mean, half = float(values.mean()), sqrt(half_squared)
    return Interval(mean, sqrt(variance), mean - half, mean + half, seeds, windows)


@dataclass(frozen=True)
class TokenRatio:
    """Tokens a variant needs for the control's final loss, over the control's tokens.

    ``value`` is None outside the variant's curve; then ``bound`` is ``"<"`` (already its first
    budget is better) or ``">"`` (its last is not good enough) and ``limit`` the ratio at that end.
    ``low`` and ``high`` are None where that end of the interval lies outside the curve.
    """

    value: float | None
    low: float | None
    high: float | None
    bound: str | None
    limit: float | None
    reason: str | None


def tokens_at(loss: float, tokens_N: ArrayLike, losses_N: ArrayLike) -> float:
    """Tokens at which a curve of decayed points first reaches ``loss``.

    Linear in (log tokens, running minimum of the loss) between neighbouring budgets; 0 where the
    first budget is already at or below ``loss``, infinity where none is.
    """
    tokens = np.log(np.asarray(tokens_N, dtype=np.float64))
    best = np.minimum.accumulate(np.asarray(losses_N, dtype=np.float64))
    reached = np.flatnonzero(best <= loss)
    if len(reached) == 0:
        return inf
    i = int(reached[0])
    if i == 0:
        return 0.0
    share = (best[i - 1] - loss) / (best[i - 1] - best[i])
    return float(np.exp(tokens[i - 1] + share * (tokens[i] - tokens[i - 1])))


def token_ratio(
    tokens_N: ArrayLike, losses_N: ArrayLike, control_N: ArrayLike, half_width: float = 0.0
) -> TokenRatio:
    """Token ratio at the control's final loss, with limits that agree with the loss interval.

    The limits are the ratios of the variant's curve moved down and up by ``half_width``, that of
    the 95 % interval of the final loss difference. Hence they include 1 exactly when that interval
    includes 0: the two columns of the table never contradict each other.

    Args:
        tokens_N: (N,) tokens of the decayed points, ascending, the same for both.
        losses_N: (N,) the variant's held-out loss there.
        control_N: (N,) the control's held-out loss there.
        half_width: nats.
    """
    tokens = np.asarray(tokens_N, dtype=np.float64)
    losses = np.asarray(losses_N, dtype=np.float64)
    target, final = float(np.asarray(control_N)[-1]), float(tokens[-1])
    if len(tokens) < 2:
        return TokenRatio(None, None, None, None, None, "has one budget only, which makes no curve")
    point, low, high = (
        tokens_at(target, tokens, losses + shift) / final for shift in (0, -half_width, half_width)
    )
    low_limit, high_limit = (limit if 0 < limit < inf else None for limit in (low, high))
    if point == 0:
        reason = "reached the control's final loss before the first budget"
        return TokenRatio(None, low_limit, high_limit, "<", float(tokens[0]) / final, reason)
    if point == inf:
        reason = "never reached the control's final loss"
        return TokenRatio(None, low_limit, high_limit, ">", 1.0, reason)
    return TokenRatio(point, low_limit, high_limit, None, None, None)


def position_edges(context: int) -> list[int]:
    """Edges of third-of-an-octave bins over positions 0..context, at least one position each."""
    thirds = np.arange(0, 3 * np.log2(max(context, 2)) + 1e-9)
    inner = np.unique(np.round(2.0 ** (thirds / 3)).astype(int))
    return [0, *(int(edge) for edge in inner if edge < context), context]


def bin_means(losses_WT: Array, edges: list[int]) -> Array:
    """(W, bins): the mean over the positions of each bin ``[edges[i], edges[i + 1])``."""
    sums = np.add.reduceat(losses_WT, edges[:-1], axis=1)
    return sums / np.diff(edges)
