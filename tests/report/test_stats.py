"""Held-out text: the error of a mean over windows, by hand and by simulation, and position bins."""

from __future__ import annotations

from itertools import pairwise
from math import inf, sqrt

import numpy as np
import pytest

from softmap.report import stats


def test_blocks_of_two_windows_by_hand():
    # Blocks (1, 3) and (5, 7): means 2 and 6 around 4, so var = 2/1 ((2 -2/4)^2 + (2 2/4)^2) = 4
    assert stats.block_variance(np.array([1.0, 3, 5, 7]), blocks=2) == (pytest.approx(4.0), 1)


def test_identical_neighbours_count_once():
    values = np.random.default_rng(0).normal(size=32)
    once, _ = stats.block_variance(values)
    repeated, dof = stats.block_variance(np.repeat(values, 5))
    assert repeated == pytest.approx(once)
    assert dof == 31


def test_few_windows_give_the_plain_standard_error():
    assert stats.block_variance(np.array([1.0, 2.0, 3.0])) == (pytest.approx(1 / 3), 2)
    assert stats.block_variance(np.array([-5.0])) == (inf, 1)


def test_windows_that_come_from_documents():
    """Documents of 4 windows with a level of their own: the plain error is half of the true one."""
    draws = [
        np.repeat(random.normal(0, 0.3, 64), 4) + random.normal(0, 0.1, 256)
        for random in map(np.random.default_rng, range(400))
    ]
    truth = np.std([values.mean() for values in draws])
    ours = np.mean([sqrt(stats.block_variance(values)[0]) for values in draws])
    assert ours == pytest.approx(truth, rel=0.12)
    assert np.mean([values.std() / 16 for values in draws]) < 0.6 * truth


def test_position_bins_cover_every_position_once():
    for context in (1, 2, 3, 17, 256):
        edges = stats.position_edges(context)
        assert edges[0] == 0 and edges[-1] == context
        assert all(a < b for a, b in pairwise(edges))


def test_bin_means_by_hand():
    means = stats.bin_means(np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 8.0]]), [0, 1, 3])
    assert means.tolist() == [[1.0, 4.0], [2.0, 6.0]]
