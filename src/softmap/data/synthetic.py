"""Small tasks whose best possible score without attention is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softmap.data import order
from softmap.errors import SoftmapError


@dataclass(frozen=True)
class Recall:
    """Associative recall: ``k1 v1 ... kP vP`` and then, for Q of these keys, ``key value``.

    Keys are ids 0..keys-1, values keys..keys+values-1. The keys of a sequence differ, its values
    differ, and both are drawn uniformly, so a key says nothing about its value unless the pair is
    looked up. Labels follow Hugging Face: aligned with the inputs (the model shifts), -100
    everywhere but on the values of the queries.

    A model whose positions see only their own token can do no better than to spread its answer over
    all values: loss ln(values), accuracy 1 / values. One that also knows which values have come up,
    but not with which key (a bag of tokens, such as uniform attention), and that excludes those
    already asked, is left with P - j values at query j.
    Source: Arora et al. 2023, "Zoology" (arXiv 2312.04927), multi-query associative recall.
    """

    pairs: int = 8
    queries: int = 4
    keys: int = 16
    values: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= self.pairs <= min(self.keys, self.values):
            raise SoftmapError(
                "recall needs 1 <= queries <= pairs <= keys and values, found "
                f"{self.queries} queries, {self.pairs} pairs, {self.keys} keys, "
                f"{self.values} values"
            )

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return self.keys + self.values

    @property
    def length(self) -> int:
        """The number of tokens per sequence."""
        return 2 * (self.pairs + self.queries)

    @property
    def loss_without_attention(self) -> float:
        """The least expected loss, in nats per asked token, of a model that sees only the last
        token.
        """
        return math.log(self.values)

    @property
    def accuracy_without_attention(self) -> float:
        """The best accuracy of a model that sees only the last token."""
        return 1 / self.values

    @property
    def loss_without_pairing(self) -> float:
        """The least expected loss of a model that sees the tokens before it as a bag."""
        return sum(math.log(self.pairs - j) for j in range(self.queries)) / self.queries

    @property
    def accuracy_without_pairing(self) -> float:
        """The best accuracy of a model that sees the values but not their keys."""
        return sum(1 / (self.pairs - j) for j in range(self.queries)) / self.queries

    def batch(
        self, *, seed: int, step: int, batch_size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (input_ids, labels), both (batch_size, length): a pure function of its
        arguments.
        """
        generator = order.generator(seed, step)
        rows = [self._sequence(generator) for _ in range(batch_size)]
        input_ids = np.stack(rows)
        labels = np.full_like(input_ids, -100)
        answers = slice(2 * self.pairs + 1, None, 2)
        labels[:, answers] = input_ids[:, answers]
        return input_ids, labels

    def _sequence(self, generator: np.random.Generator) -> NDArray[np.int64]:
        keys = generator.permutation(self.keys)[: self.pairs]
        values = generator.permutation(self.values)[: self.pairs] + self.keys
        pairs = np.stack([keys, values], axis=1)
        asked = generator.permutation(self.pairs)[: self.queries]
        return np.concatenate([pairs, pairs[asked]]).reshape(-1)


def tiny_text() -> str:
    """Returns a fixed text of about a thousand characters, for tests that must overfit it."""
    return _TINY


_TINY = """\
A map of attention is a table with a row for every word that asks and a column for every word
that may answer. The softmax fills each row with shares that add up to one, and the shares say how
much of each answer is taken. Most of the table is close to zero, yet never quite zero, and so a
little of everything leaks into every row.

One way to edit the table is to draw it twice and take the difference: what both drawings share,
the leak, goes away. Another way is to let the heads talk: a row of one head is mixed with the
same row of its neighbours, by weights that depend on the word that asks and the word that answers.
A third way looks at the scores before the softmax as if they were a picture, and lets a small
network adjust them by how far apart the two words are. A fourth begins with no table at all, a
word that listens only to itself, and learns to listen from there.

Which of these is worth its price? Train them on the same words in the same order, and count.
"""
