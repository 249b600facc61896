"""Tasks of tokens alone: sequences in which some tokens are predictable, and asked of a model.

A task is a frozen dataclass with ``vocabulary``, ``length`` and [`Task.sample`][]. Suites ask a
model for instances, ``softmap learn`` trains on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from softmap.data import order
from softmap.evals.subject import Subject

IGNORED = -100  #: the label of a token that is not asked, as in Hugging Face


class Task:
    """A task; ``sample`` returns one sequence, whose labels say which tokens are asked.

    Labels are aligned with the tokens (a model shifts them): the answer itself, or -100.
    """

    vocabulary: int
    length: int

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids, labels), both int64 (length,)."""
        raise NotImplementedError

    def batch(self, seed: int, step: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids, labels), both (size, length): a pure function of its arguments."""
        generator = order.generator(seed, step)
        rows = [self.sample(generator) for _ in range(size)]
        return np.stack([ids for ids, _ in rows]), np.stack([labels for _, labels in rows])


def labelled(ids: Any, asked: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids, labels) from tokens and the indices that are asked."""
    tokens = np.asarray(ids, np.int64)
    labels = np.full_like(tokens, IGNORED)
    labels[np.asarray(asked, int)] = tokens[np.asarray(asked, int)]
    return tokens, labels


def scores(subject: Subject, ids: np.ndarray, labels: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yields, for each sequence, the share of asked tokens that are likeliest, and their mean
    loss.
    """
    size = subject.batch(ids.shape[1])
    for start in range(0, len(ids), size):
        logits = subject.logits(ids[start : start + size])[:, :-1].cpu()
        wanted = torch.as_tensor(labels[start : start + size, 1:])
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(wanted.shape)
        asked = wanted != IGNORED
        right = (logits.argmax(-1) == wanted) & asked
        count = asked.sum(1)
        yield from zip(
            (right.sum(1) / count).tolist(), (losses.sum(1) / count).tolist(), strict=True
        )
