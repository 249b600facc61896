"""Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmap.errors import SoftmapError
from softmap.evals.question import Picture
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import TokenSuite

VOCABULARY = 8192
GRID = ((64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256))


@dataclass(frozen=True)
class RecallTask(Task):
    """``k1 v1 ... kP vP``, then filler in which every key comes again, followed by its value.

    Keys are ids below vocabulary / 2, values those above; keys and values of a sequence differ. The
    places of the questions follow the power law x^(power - 1) over the rest, so that most come
    soon, as in the public generator; filler is any id that is no key of the sequence.
    """

    length: int = 128
    pairs: int = 8
    vocabulary: int = VOCABULARY
    power: float = 0.01

    def __post_init__(self) -> None:
        if self.length < 4 * self.pairs or 2 * self.pairs > self.vocabulary:
            raise SoftmapError(
                f"recall of {self.pairs} pairs needs a length of {4 * self.pairs} and a vocabulary "
                f"of {2 * self.pairs}, found {self.length} and {self.vocabulary}"
            )

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        half = self.vocabulary // 2
        keys = generator.permutation(half)[: self.pairs]
        values = generator.permutation(half)[: self.pairs] + half
        ids = generator.integers(half, self.vocabulary, self.length)  # values are no questions
        ids[: 2 * self.pairs] = np.stack([keys, values], 1).reshape(-1)
        slots = (self.length - 2 * self.pairs) // 2
        law = np.arange(1, slots + 1) ** (self.power - 1)
        chosen = generator.choice(slots, self.pairs, replace=False, p=law / law.sum())
        places = 2 * self.pairs + 2 * chosen
        ids[places], ids[places + 1] = keys, values
        return labelled(ids, places + 1)


@dataclass(frozen=True)
class RecallSuite(TokenSuite):
    """Sequences of key-value pairs, then every key again at places that follow a power law;
    right is a value that is the likeliest of all tokens after its key. From 64 tokens with 4
    pairs to 1024 with 256, as far as context and vocabulary (8192 at most) allow.
    """

    name = "recall"
    title = "Associative recall"
    asks = "Is the value of a key recalled, among many keys?"
    condition = "pairs"
    pictures = (
        Picture("accuracy", "pairs", "Pairs to remember (log scale)", log=True),
        Picture("loss", "pairs", "Pairs to remember (log scale)", log=True),
    )

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        size = max(2 * GRID[0][1], min(VOCABULARY, vocabulary))
        return [(n, RecallTask(length, n, size)) for length, n in GRID if 2 * n <= size]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return tuple(RecallTask(length, pairs, 128) for length, pairs in GRID[:4])


SUITE = RecallSuite
