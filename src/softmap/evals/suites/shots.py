"""Many-shot in-context learning: accuracy by the number of demonstrations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from softmap.errors import SoftmapError
from softmap.evals import hub
from softmap.evals.hub import Example
from softmap.evals.jsonl import read
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject

LABELS = ("red", "blue", "green", "black", "white", "grey")
_CONSONANTS, _VOWELS = "bcdfghklmnprstvz", "aeiou"


class _Line(TypedDict):
    text: str
    label: str


@dataclass(frozen=True)
class Shots(Suite):
    """``text -> label`` lines, a question at the end, and the likeliest label, decoded token by
    token with only labels allowed. Offline: made-up words whose ending decides the label, new
    endings in every prompt. shots:trec, trec-fine, banking77 and clinc150 read the Hub,
    demonstrations from the training side and questions from 250 test items; shots:FILE reads
    JSON lines of text and label.
    """

    examples: tuple[Example, ...] = field(default=(), repr=False)
    questions: tuple[Example, ...] = field(default=(), repr=False)
    counts: tuple[int, ...] = (6, 12, 24, 48, 96, 192)
    items: int = 64

    name = "shots"
    title = "Many-shot in-context learning"
    asks = "Does the model classify better the more examples it is shown?"
    reads_tokens = True
    metrics = (
        Metric("accuracy", "Right labels", "share", "higher", 0.02),
        Metric("most", "Right labels with the most shots", "share", "higher", 0.02),
    )
    pictures = (Picture("accuracy", "shots", "Demonstrations (log scale)", log=True),)

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with examples from a file or a set of the Hub."""
        return cls(*given(argument))

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, counts=self.counts[:3], items=8)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the model has no room for the least instance."""
        super().check(subject, setting)
        count = min(self.counts)
        prompt = self.prompt(setting.generator(0), count)[0]
        at_least("context", setting.context, len(subject.encode(prompt)) + 8, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``accuracy`` and ``most`` of each instance."""
        for item in range(self.items):
            for count in self.counts:
                prompt, label, labels = self.prompt(setting.generator(item), count)
                tokens = subject.encode(prompt)
                if len(tokens) + 8 > setting.context:
                    break
                right = float(constrained(subject, tokens, labels) == label)
                yield row("accuracy", item, right, shots=count)
                last = right
            yield row("most", item, last)

    def prompt(self, generator: np.random.Generator, count: int) -> tuple[str, str, list[str]]:
        """Returns a prompt of demonstrations and a question, its label, and all labels.

        With a larger ``count`` the same question comes after the same demonstrations and further
        ones.
        """
        (asked, label), *shown = self.drawn(generator, 1 + max(self.counts))
        if self.questions:
            asked, label = self.questions[int(generator.integers(len(self.questions)))]
        labels = sorted({one for _, one in self.examples}) or list(LABELS)
        return written(shown[:count], asked), label, labels

    def drawn(self, generator: np.random.Generator, count: int) -> list[Example]:
        """Returns ``count`` different examples of a file, or made-up ones."""
        if self.examples:
            chosen = generator.permutation(len(self.examples))[:count]
            return [self.examples[n] for n in chosen]
        return made_up(generator, count)


def written(shown: Sequence[Example], asked: str) -> str:
    """Returns the prompt, which ends where the label would be."""
    return "".join(f"{text} -> {label}\n" for text, label in shown) + f"{asked} ->"


def made_up(generator: np.random.Generator, count: int) -> list[Example]:
    """Returns words whose last four letters decide their label; the first one is the question.

    Each label comes once in any six of the following ones.
    """
    endings: dict[str, None] = {}
    while len(endings) < len(LABELS):
        endings[_word(generator, 2)] = None
    order = [int(generator.integers(len(LABELS)))]
    while len(order) < count:
        order += generator.permutation(len(LABELS)).tolist()
    kinds = list(endings)
    return [(_word(generator, 2) + kinds[n], LABELS[n]) for n in order[:count]]


def _word(generator: np.random.Generator, syllables: int) -> str:
    parts = [
        _CONSONANTS[generator.integers(len(_CONSONANTS))] + _VOWELS[generator.integers(5)]
        for _ in range(syllables)
    ]
    return "".join(parts)


def constrained(subject: Subject, prompt: Sequence[int], labels: Sequence[str]) -> str:
    """Returns the label that greedy decoding gives when only labels, each with a line break, are
    allowed.
    """
    alive = {label: subject.encode(f" {label}\n") for label in labels}
    said: list[int] = []
    while len(alive) > 1:
        logits = subject.logits(np.array([[*prompt, *said]]), keep=1)[0, -1]
        allowed = sorted({tokens[len(said)] for tokens in alive.values()})
        said.append(max(allowed, key=lambda token: float(logits[token])))
        alive = {k: tokens for k, tokens in alive.items() if tokens[: len(said)] == said}
    return next(iter(alive))


def given(argument: str) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns (demonstrations, questions) for a suite's argument: a set of the Hub, or a file.

    The questions of a file are among its own examples; an empty argument gives nothing.
    """
    if not argument:
        return (), ()
    return hub.examples(argument) if hub.is_set(argument, hub.EXAMPLES) else (of_file(argument), ())


def of_file(argument: str) -> tuple[Example, ...]:
    """Returns the examples of a file of JSON lines.

    Raises ``SoftmapError`` with a broken line's number, and where there is only one label.
    """
    lines = read(Path(argument), _Line)
    examples = tuple((" ".join(one["text"].split()), one["label"].strip()) for one in lines)
    if len({label for _, label in examples}) < 2:
        raise SoftmapError(f"{argument}: expected two labels or more, found one")
    return examples


SUITE = Shots
