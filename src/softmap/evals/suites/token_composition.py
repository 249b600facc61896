"""Composition for models of tokens alone: look up, transform, some pairs of both held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softmap.data import order
from softmap.evals.question import Metric, Picture
from softmap.evals.tasks import Task, labelled
from softmap.evals.token_suite import TokenSuite

RELATIONS, TRANSFORMS, OWNERS, THINGS, ANSWERS = 3, 3, 12, 24, 24
_RELATION, _TRANSFORM = 0, RELATIONS
_OWNER = _TRANSFORM + TRANSFORMS
_THING = _OWNER + OWNERS
_ANSWER = _THING + THINGS
VOCABULARY = _ANSWER + ANSWERS


def answer_table() -> np.ndarray:
    """Returns the answer of each transform for each thing, (transforms, things); training
    teaches it.
    """
    return order.generator(7).integers(0, ANSWERS, (TRANSFORMS, THINGS)) + _ANSWER


@dataclass(frozen=True)
class Composed(Task):
    """Facts ``relation owner thing``, every owner with a thing for every relation, then questions
    ``relation transform owner answer``: the thing is looked up in the facts by relation and owner,
    and the answer is what the transform says of it.

    Attributes:
        seen: whether relation and transform are a pair of the training; those with equal numbers
            are held out.
    """

    length: int = 72
    owners: int = 4
    questions: int = 9
    seen: bool = True
    vocabulary: int = VOCABULARY

    def sample(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns one sequence's ids and labels, both int64 (length,)."""
        owners = generator.permutation(OWNERS)[: self.owners]
        things = generator.integers(0, THINGS, (RELATIONS, self.owners))
        facts = [(r, n) for r in range(RELATIONS) for n in range(self.owners)]
        ids: list[int] = []
        for k in generator.permutation(len(facts)):
            r, n = facts[k]
            ids += [_RELATION + r, _OWNER + int(owners[n]), _THING + int(things[r, n])]
        asked, answers = [], answer_table()
        for _ in range(self.questions):
            r, n = int(generator.integers(RELATIONS)), int(generator.integers(self.owners))
            t = (r + int(generator.integers(1, TRANSFORMS))) % TRANSFORMS if self.seen else r
            answer = int(answers[t, things[r, n]])
            ids += [_RELATION + r, _TRANSFORM + t, _OWNER + int(owners[n]), answer]
            asked.append(len(ids) - 1)
        return labelled(ids, asked)


@dataclass(frozen=True)
class TokenComposition(TokenSuite):
    """Four owners with a thing for each of three relations; a question names a relation, a
    transform and an owner. Asked are the pairs of relation and transform that training has, and
    those that it never has: a model that has learned both, and composes them, answers these as
    well. For models that were trained on it alone (softmap learn).
    """

    name = "token_composition"
    title = "Composition among tokens"
    asks = "Is a lookup composed with learned knowledge, in pairs never seen together?"
    condition = "pairs"
    metrics = (
        Metric("accuracy", "Answers right", "share", "higher", 0.02, {"pairs": "held out"}),
        Metric("loss", "Loss of the answers (nats)", "nats", "lower", 0.05, {"pairs": "held out"}),
    )
    pictures = (Picture("accuracy", "pairs", "Pairs of relation and transform"),)

    def grid(self, vocabulary: int) -> Sequence[tuple[int | str, Task]]:
        """Returns the conditions that are asked, each with its task."""
        return [("seen", Composed()), ("held out", Composed(seen=False))]

    def mixture(self) -> tuple[Task, ...]:
        """Returns the tasks that ``softmap learn`` trains on."""
        return (Composed(),)


SUITE = TokenComposition
