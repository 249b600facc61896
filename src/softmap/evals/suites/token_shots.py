"""In-context learning for models of tokens alone: which ending means which label?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmap.evals.question import Metric, Picture
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import TokenSuite

LABELS, ENDINGS, STEMS = 6, 32, 32
VOCABULARY = LABELS + ENDINGS + STEMS
MOST = 41  #: demonstrations that fit into 128 tokens, with a question


@dataclass(frozen=True)
class TokenShot(Task):
    """``shots`` times (stem, ending, label) and a question of the same form. The ending decides
    the label, with six new endings in every sequence; stems mean nothing. Asked is the last
    label, or with ``every`` all those whose ending was shown before.
    """

    length: int = 3 * (MOST + 1)
    every: bool = False
    vocabulary: int = VOCABULARY

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        count = self.length // 3
        endings = LABELS + generator.permutation(ENDINGS)[:LABELS]
        rounds = [generator.permutation(LABELS) for _ in range(count // LABELS + 1)]
        kinds = np.concatenate(rounds)[: count - 1]  # each label once in any six
        kinds = np.append(kinds, generator.integers(LABELS))
        stems = generator.integers(LABELS + ENDINGS, VOCABULARY, count)
        ids = np.stack([stems, endings[kinds], kinds], 1).reshape(-1)
        asked = [n for n in range(count) if kinds[n] in kinds[:n]] if self.every else [count - 1]
        return labelled(ids, [3 * n + 2 for n in asked])


@dataclass(frozen=True)
class TokenShots(TokenSuite):
    """Three tokens per example, of which the second decides the third by a rule that is new in
    every sequence; 6 to 41 examples and a question. The question of shots, for models of tokens
    that were trained on it (softmap learn).
    """

    name = "token_shots"
    title = "Learning from examples among tokens"
    asks = "Does the model find the rule of the examples that it is shown?"
    condition = "shots"
    metrics = (
        Metric("accuracy", "Labels right", "share", "higher", 0.02),
        Metric("loss", "Loss of the label (nats)", "nats", "lower", 0.05),
    )
    pictures = (Picture("accuracy", "shots", "Demonstrations (log scale)", log=True),)

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        return [(n, TokenShot(3 * (n + 1))) for n in (6, 12, 24, MOST)]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return tuple(TokenShot(3 * (n + 1), every=True) for n in (12, MOST))


SUITE = TokenShots
