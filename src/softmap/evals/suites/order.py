"""Robustness to the order of demonstrations: the best order's accuracy minus the worst's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from softmap.evals.question import Metric, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject
from softmap.evals.suites.shots import Example, Shots, constrained, given, written


@dataclass(frozen=True)
class Order(Suite):
    """One set of demonstrations in ten orders, at random and by class (the classes in random
    order); the same questions after each. An instance is a set of demonstrations. Prompts are
    those of ``shots``; order:NAME and order:FILE read examples as it does.
    """

    examples: tuple[Example, ...] = field(default=(), repr=False)
    tested: tuple[Example, ...] = field(default=(), repr=False)
    orders: int = 10
    shots: int = 24
    questions: int = 16
    sets: int = 4

    name = "order"
    title = "Order of demonstrations"
    asks = "How much does the order of the examples matter?"
    reads_tokens = True
    metrics = (
        Metric("spread_random", "Best minus worst, random orders", "share", "lower", 0.02),
        Metric("spread_by_class", "Best minus worst, sorted by class", "share", "lower", 0.02),
        Metric("accuracy", "Right labels", "share", "higher", 0.02),
    )

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with examples from a file or a set of the Hub."""
        return cls(*given(argument))

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, orders=4, shots=12, questions=4, sets=2)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the model has no room for the least instance."""
        super().check(subject, setting)
        shown, _, (asked, *_) = self._set(setting.generator(0))
        needed = len(subject.encode(written(shown, asked[0]))) + 8
        at_least("context", setting.context, needed, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``accuracy`` of each instance."""
        for item in range(self.sets):
            generator = setting.generator(item)
            shown, labels, questions = self._set(generator)
            for name, by_class in (("random", False), ("by_class", True)):
                orders = [self._ordered(shown, by_class, generator) for _ in range(self.orders)]
                found = [self._accuracy(subject, one, labels, questions) for one in orders]
                yield row(f"spread_{name}", item, max(found) - min(found))
                yield row("accuracy", item, float(np.mean(found)), arrangement=name)

    def _set(
        self, generator: np.random.Generator
    ) -> tuple[list[Example], list[str], list[Example]]:
        drawn = Shots(self.examples).drawn(generator, self.shots + self.questions)
        labels = sorted({label for _, label in (self.examples or drawn)})
        asked = drawn[self.shots :]
        if self.tested:
            chosen = generator.permutation(len(self.tested))[: self.questions]
            asked = [self.tested[n] for n in chosen]
        return drawn[: self.shots], labels, asked

    def _ordered(
        self, shown: list[Example], by_class: bool, generator: np.random.Generator
    ) -> list[Example]:
        mixed = [shown[n] for n in generator.permutation(len(shown))]
        if not by_class:
            return mixed
        classes = list(dict.fromkeys(label for _, label in mixed))
        return sorted(mixed, key=lambda one: classes.index(one[1]))

    def _accuracy(
        self, subject: Subject, shown: list[Example], labels: list[str], questions: list[Example]
    ) -> float:
        right = [
            constrained(subject, subject.encode(written(shown, text)), labels) == label
            for text, label in questions
        ]
        return float(np.mean(right))


SUITE = Order
