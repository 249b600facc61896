"""A bigram language of mixed certainty (Wen et al. 2024, arXiv 2410.05192): after each token the
next one has its own uncertainty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from softmap.data import order
from softmap.evals import points
from softmap.evals.points import AFTER, BEFORE
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.surface import Surface
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import HELD_OUT, TokenSuite

SUCCESSORS = (1, 2, 4, 8, 16)  #: number of successors by class: 0 to 4 bits of uncertainty
EACH = 16  #: tokens in a class
VOCABULARY = len(SUCCESSORS) * EACH
_AXIS = "Successors of the token before (log scale)"


@cache
def language() -> list[np.ndarray]:
    """Returns the successors of each token, all equally likely; the language is always the same."""
    draw = order.generator(11)
    return [draw.permutation(VOCABULARY)[: classes()[token]] for token in range(VOCABULARY)]


def classes() -> np.ndarray:
    """Returns the number of successors of each token, (vocabulary,)."""
    return np.repeat(SUCCESSORS, EACH)


@dataclass(frozen=True)
class Bigram(Task):
    """A walk through the language. All tokens but the first are asked, or those after a token of
    ``successors`` alone: the best loss on them is log(successors).
    """

    successors: int | None = None
    length: int = 128
    vocabulary: int = VOCABULARY

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        ids = [int(generator.integers(VOCABULARY))]
        while len(ids) < self.length:
            following = language()[ids[-1]]
            ids.append(int(following[generator.integers(len(following))]))
        kinds = classes()[ids[:-1]]
        asked = np.flatnonzero((kinds == self.successors) | (self.successors is None))
        return labelled(ids, asked + 1)


@dataclass(frozen=True)
class BigramSuite(TokenSuite):
    """80 tokens in five classes, whose next token is one of 1, 2, 4, 8, 16 equally likely ones:
    a model that knows the language has a loss of the log of that. Excess loss by class; with
    weights kept before and after each decay also at these points, the loss that the last decay
    removed from each class, and the largest eigenvalue of the Hessian of each class's loss at
    the last decayed point (or at the model's own weights). For models that were trained on it
    (softmap learn).
    """

    curved: int = 16  #: sequences for the Hessian

    name = "bigram"
    title = "A bigram language"
    asks = "Are tokens with uncertain successors the steep sides of the valley that a decay helps?"
    condition = "successors"
    metrics = (
        Metric("excess", "Loss beyond the entropy (nats)", "nats", "lower", 0.005),
        Metric("loss", "Loss (nats)", "nats", "lower", 0.005),
        Metric("fall", "Loss lost in the last decay (nats)", "nats", "", 0.005),
        Metric("curvature", "Largest curvature of a class's loss", "", "", 0.1),
        Metric("through", "Loss beyond the entropy, in training (nats)", "nats", "lower"),
    )
    pictures = (
        Picture("excess", "successors", _AXIS, log=True),
        Picture("fall", "successors", _AXIS, log=True),
        Picture("curvature", "successors", _AXIS, log=True),
        Picture(
            "through", "phase", "Budget and phase", y="successors", y_title="Successors",
        ),
    )  # fmt: skip
    training: ClassVar[dict[str, str]] = {
        "training.schedule": "wsd-s", "training.budgets": "[0.25, 0.5, 1]",
        "training.keep_points": "true",
    }  # fmt: skip

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        return [(count, Bigram(count)) for count in SUCCESSORS]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return (Bigram(),)

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, sequences=8, curved=4)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``loss`` and ``excess`` of each instance."""
        ids, _ = Bigram().batch(setting.seed, HELD_OUT, self.sequences)
        for count, item, loss in by_class(subject, ids):
            yield row("loss", item, loss, successors=count)
            yield row("excess", item, loss - np.log(count), successors=count)
        surface, kept = Surface(subject.model), points.beside(subject)
        with surface.moved():
            yield from self._through(subject, surface, kept, ids)
            yield from self._curvature(subject, surface, ids[: self.curved])

    def _through(
        self, subject: Subject, surface: Surface, kept: points.Kept, ids: np.ndarray
    ) -> Iterator[Row]:
        """Yields every point's losses; leaves the model at the last point."""
        found: dict[tuple[int, str], dict[tuple[int, int], float]] = {}
        for (budget, phase), path in kept.items():
            surface.go(points.vector(path, subject.model))
            losses = {(count, item): loss for count, item, loss in by_class(subject, ids)}
            found[budget, phase] = losses
            for (count, item), loss in losses.items():
                at = {"phase": f"{budget + 1} {phase}", "successors": count}
                yield row("through", item, loss - np.log(count), **at)
        last = max((budget for budget, _ in found), default=0)
        if (last, BEFORE) in found and (last, AFTER) in found:
            for (count, item), loss in found[last, BEFORE].items():
                fall = loss - found[last, AFTER][count, item]
                yield row("fall", item, fall, successors=count)

    def _curvature(self, subject: Subject, surface: Surface, ids: np.ndarray) -> Iterator[Row]:
        tokens = torch.as_tensor(ids, device=subject.device)
        kinds = torch.as_tensor(classes()[ids[:, :-1]], device=subject.device)
        for count in SUCCESSORS:

            def loss(wanted: Tensor = kinds == count) -> Tensor:
                logits = subject.model(input_ids=tokens, use_cache=False).logits.float()[:, :-1]
                return torch.nn.functional.cross_entropy(logits[wanted], tokens[:, 1:][wanted])

            (value,), _ = surface.sharpest(loss, 1)
            yield row("curvature", 0, float(value), successors=count)


def by_class(subject: Subject, ids: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yields (successors, sequence, mean loss of the tokens that follow one of that class)."""
    losses, kinds = subject.losses(ids), classes()[ids[:, :-1]]
    for count in SUCCESSORS:
        for item, (row_, mine) in enumerate(zip(losses, kinds == count, strict=True)):
            if mine.any():
                yield count, item, float(row_[mine].mean())


SUITE = BigramSuite
