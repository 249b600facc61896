"""Suites over tasks of tokens alone, which small models can also be trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from softmap.errors import SoftmapError
from softmap.evals.question import Metric, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject
from softmap.evals.tasks import Task, scores

HELD_OUT = 10**6  #: the first step whose batches are asked; training uses earlier steps


@dataclass(frozen=True)
class TokenSuite(Suite):
    """A suite of tasks of tokens: an answer is right where the asked token is the likeliest of all.

    An instance is a sequence. ``condition`` names what differs between the tasks of [`grid`][]; its
    first task is the least that a model must have room for.
    """

    sequences: int = 64

    condition: ClassVar[str]
    training: ClassVar[dict[str, str]] = {}  #: settings of ``softmap learn`` for this suite
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Asked tokens right", "share", "higher", 0.02),
        Metric("loss", "Loss of the asked tokens (nats)", "nats", "lower", 0.05),
    )

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns conditions with their tasks, for models of this vocabulary.

        Tasks that do not fit into a model's context or vocabulary are left out later.
        """
        raise NotImplementedError

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on, all of one vocabulary."""
        raise NotImplementedError

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, sequences=8)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the context or the vocabulary is too small."""
        _, least = self.grid(max(2, setting.vocabulary))[0]
        at_least("context", setting.context, least.length, self.name, subject)
        at_least("vocabulary", setting.vocabulary, least.vocabulary, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the accuracy and the loss of each sequence, by condition."""
        item = 0
        for number, (value, task) in enumerate(self.grid(setting.vocabulary)):
            if task.length > setting.context or task.vocabulary > setting.vocabulary:
                continue
            ids, labels = task.batch(setting.seed, HELD_OUT + number, self.sequences)
            for right, loss in self._scores(subject, ids, labels, setting):
                yield row("accuracy", item, right, **{self.condition: value})
                yield row("loss", item, loss, **{self.condition: value})
                item += 1

    def _scores(
        self, subject: Subject, ids: np.ndarray, labels: np.ndarray, setting: Setting
    ) -> list[tuple[float, float]]:
        """Returns scores; none for sequences that are longer than the model has positions for."""
        try:
            return list(scores(subject, ids, labels))
        except SoftmapError as error:
            if ids.shape[1] <= subject.context:
                raise
            setting.tell(f"{subject.name}: no sequences of {ids.shape[1]} tokens: {error}")
            return []
