"""The six tasks of MAD (Poli et al. 2024, arXiv 2403.17844), as next-token prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from softmap.data import order
from softmap.evals.question import Picture
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import TokenSuite

SIZE = 16  #: the number of the tasks' own ids; marks and noise have higher ones
MARK, COPY, NOISE = SIZE, SIZE + 1, SIZE + 2
VOCABULARY = NOISE + SIZE


@dataclass(frozen=True)
class Mad(Task):
    """A task of 128 of 16 tokens; marks and noise tokens have higher ids."""

    length: int = 128
    vocabulary: int = VOCABULARY
    key: ClassVar[str]


@dataclass(frozen=True)
class InContext(Mad):
    """Random pairs ``key value``, with one value per key in each sequence; asked are the values
    of keys that came before. Keys are 8 of the 16 tokens, values the others.
    """

    key = "in-context recall"
    noise: float = 0.0

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        values = generator.integers(SIZE // 2, SIZE, SIZE // 2)
        ids: list[int] = []
        asked: list[int] = []
        seen: set[int] = set()
        while len(ids) + 2 <= self.length:
            if generator.random() < self.noise:
                ids.append(int(generator.integers(NOISE, NOISE + SIZE)))
                continue
            key = int(generator.integers(SIZE // 2))
            ids += [key, int(values[key])]
            asked += [len(ids) - 1] if key in seen else []
            seen.add(key)
        return labelled(_filled(ids, self.length), asked)


@dataclass(frozen=True)
class Noisy(InContext):
    """In-context recall with a noise token instead of every fifth pair."""

    key = "noisy recall"
    noise: float = 0.2


@dataclass(frozen=True)
class Fuzzy(Mad):
    """Keys and values of one to three tokens; a mark before each key and each value."""

    key = "fuzzy recall"
    kinds: int = 6

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        keys = _motifs(generator, self.kinds, 0, SIZE // 2)
        values = _motifs(generator, self.kinds, SIZE // 2, SIZE)
        ids: list[int] = []
        asked: list[int] = []
        seen: set[int] = set()
        while True:
            n = int(generator.integers(self.kinds))
            new = [MARK, *keys[n], COPY, *values[n]]
            if len(ids) + len(new) > self.length:
                return labelled(_filled(ids, self.length), asked)
            ids += new
            if n in seen:
                asked += range(len(ids) - len(values[n]), len(ids))
            seen.add(n)


@dataclass(frozen=True)
class SelectiveCopy(Mad):
    """Sixteen tokens among noise, a mark, and the tokens again in order, which are asked."""

    key = "selective copying"
    copied: int = 16

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        room = self.length - self.copied - 1
        ids = generator.integers(NOISE, NOISE + SIZE, self.length)
        tokens = generator.integers(0, SIZE, self.copied)
        ids[np.sort(generator.permutation(room)[: self.copied])] = tokens
        ids[room], ids[room + 1 :] = COPY, tokens
        return labelled(ids, range(room + 1, self.length))


@dataclass(frozen=True)
class Compression(Mad):
    """Random tokens, a mark, and the same tokens again, which are asked. (The authors decode
    them from the mark's own state; here a model may also look further back.)
    """

    key = "compression"

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        half = (self.length - 1) // 2
        tokens = generator.integers(0, SIZE, half)
        ids = [*tokens, COPY, *tokens]
        return labelled(_filled(ids, self.length), range(half + 1, 2 * half + 1))


@dataclass(frozen=True)
class Memorisation(Mad):
    """Pairs ``key value`` from one dictionary for all sequences: what is asked was either
    learned in training or is unknown (a model that never saw it is right by chance alone).
    """

    key = "memorisation"

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        values = order.generator(0).integers(SIZE // 2, SIZE, SIZE)
        # Every key once at most, so that none can be looked up: all 16 noise ids are keys.
        keys = generator.permutation(SIZE)
        pairs = np.stack([keys + NOISE, values[keys]], 1).reshape(-1)
        ids = _filled(pairs[: self.length].tolist(), self.length)
        return labelled(ids, range(1, min(len(pairs), self.length), 2))


TASKS = (InContext(), Noisy(), Fuzzy(), SelectiveCopy(), Compression(), Memorisation())


def _filled(ids: list[int], length: int) -> list[int]:
    return ids + [MARK] * (length - len(ids))


def _motifs(
    generator: np.random.Generator, count: int, low: int, high: int
) -> list[tuple[int, ...]]:
    """Returns ``count`` different sequences of one to three tokens."""
    found: dict[tuple[int, ...], None] = {}
    while len(found) < count:
        size = int(generator.integers(1, 4))
        found[tuple(generator.integers(low, high, size).tolist())] = None
    return list(found)


@dataclass(frozen=True)
class MadSuite(TokenSuite):
    """Each task's sequences of 128 tokens; right is an asked token that is the likeliest of all.
    They are most informative for models that were trained on them (softmap learn).
    """

    name = "mad"
    title = "Six synthetic tasks (MAD)"
    asks = "How good is the model at six small skills: recall, copying, compression, memory?"
    condition = "task"
    pictures = (Picture("accuracy", "task", "Task"),)

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        return [(task.key, task) for task in TASKS]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return TASKS


SUITE = MadSuite
