"""Numbers of held-out text: the error of a mean over windows, and bins of positions.

Pure numpy. Shape letters: W held-out windows (in the order of the text), T positions in a window.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

BLOCKS = 32


def block_variance(values_W: Array, blocks: int = BLOCKS) -> tuple[float, int]:
    """Returns the variance of the mean of serially correlated values, and its degrees of freedom.

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


def position_edges(context: int) -> list[int]:
    """Returns the edges of third-of-an-octave bins over positions 0..context, each of at least one
    position.
    """
    thirds = np.arange(0, 3 * np.log2(max(context, 2)) + 1e-9)
    inner = np.unique(np.round(2.0 ** (thirds / 3)).astype(int))
    return [0, *(int(edge) for edge in inner if edge < context), context]


def bin_means(losses_WT: Array, edges: list[int]) -> Array:
    """Returns the mean over the positions of each bin ``[edges[i], edges[i + 1])``, (W, bins)."""
    sums = np.add.reduceat(losses_WT, edges[:-1], axis=1)
    return sums / np.diff(edges)
