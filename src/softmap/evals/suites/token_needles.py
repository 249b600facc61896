"""Needles for models of tokens alone: marked pairs in a hay of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmap.evals.question import Picture
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import TokenSuite

MARK, KEYS, VALUES, HAY = 0, 32, 32, 63
VOCABULARY = 1 + KEYS + VALUES + HAY


@dataclass(frozen=True)
class TokenNeedle(Task):
    """``needles`` times (mark, key, value) anywhere in hay, and at the end (mark, key) of one of
    them, whose value is asked. Hay has its own ids.
    """

    length: int = 128
    needles: int = 1
    vocabulary: int = VOCABULARY

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        ids = generator.integers(1 + KEYS + VALUES, VOCABULARY, self.length)
        keys = 1 + generator.permutation(KEYS)[: self.needles]
        values = 1 + KEYS + generator.integers(0, VALUES, self.needles)
        # Places a needle apart, then spread: no two overlap.
        room = self.length - 3 - 3 * self.needles
        starts = np.sort(generator.integers(0, room + 1, self.needles))
        starts = starts + 3 * np.arange(self.needles)
        for start, key, value in zip(starts, keys, values, strict=True):
            ids[start : start + 3] = MARK, key, value
        n = int(generator.integers(self.needles))
        ids[-3:] = MARK, keys[n], values[n]
        return labelled(ids, [self.length - 1])


@dataclass(frozen=True)
class TokenNeedles(TokenSuite):
    """128 tokens: marked pairs of key and value in hay, one of which is asked at the end; 1 to
    16 of them. The question of needles, for models of tokens that were trained on it (softmap
    learn).
    """

    name = "token_needles"
    title = "Needles among tokens"
    asks = "Is a marked pair found again in a hay of tokens, among others of its kind?"
    condition = "needles"
    pictures = (Picture("accuracy", "needles", "Needles in the hay (log scale)", log=True),)

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        return [(n, TokenNeedle(128, n)) for n in (1, 2, 4, 8, 16)]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return tuple(TokenNeedle(length, n) for length in (64, 128) for n in (1, 2, 4, 8))


SUITE = TokenNeedles
