"""Composition: what one head looks up must meet what another one knows (DCFormer, arXiv
2405.08553).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from softmap.errors import SoftmapError
from softmap.evals.jsonl import read
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject
from softmap.evals.words import COLOURS, OBJECTS, PEOPLE, USES

_ANSWER = re.compile(r"\[([^\[\]]+)\]")
LINES, SCORED = 8, 6


class _Line(TypedDict):
    task_id: Any
    texts: list | str


@dataclass(frozen=True)
class CompositionSuite(Suite):
    """Eight lines per text; the answers of six are in brackets, which are removed. An answer is
    right where every token of it is the likeliest, given all before it (teacher forcing). Our
    texts require looking up who has what, and then saying the thing, its kind, its use or its
    colour. composition:FILE reads the authors' format: JSON lines of task_id and texts.
    """

    texts: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    samples: int = 24

    name = "composition"
    title = "Composition of lookup and transform"
    asks = "Can the model look something up in the text and say something else about it?"
    reads_tokens = True
    metrics = (
        Metric("accuracy", "Answers right", "share", "higher", 0.02),
        Metric("loss", "Loss of the answers (nats)", "nats", "lower", 0.05),
    )
    pictures = (Picture("accuracy", "task", "Task"), Picture("loss", "task", "Task"))

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with the texts of a file."""
        return cls(of_file(Path(argument))) if argument else cls()

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, texts=self.texts[:16], samples=4)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the model has no room for the least instance."""
        super().check(subject, setting)
        needed = max(len(parts(subject, text)[0]) for _, text in self._texts(setting)[:32])
        at_least("context", setting.context, needed, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``accuracy`` and ``loss`` of each instance."""
        for item, (task, text) in enumerate(self._texts(setting)):
            tokens, answers = parts(subject, text)
            window = np.array([tokens], np.int64)[:, : setting.context + 1]
            logits = subject.logits(window)[0].cpu()
            losses = subject.losses(window)[0]
            for start, stop in answers:
                if stop > window.shape[1]:
                    continue
                said = logits[start - 1 : stop - 1].argmax(-1).tolist()
                yield row("accuracy", item, float(said == tokens[start:stop]), task=task)
                yield row("loss", item, losses[start - 1 : stop - 1].mean(), task=task)

    def _texts(self, setting: Setting) -> list[tuple[str, str]]:
        if self.texts:
            return list(self.texts)
        return [
            (name, make(setting.generator(number, sample)))
            for number, (name, make) in enumerate(_MAKERS.items())
            for sample in range(self.samples)
        ]


def parts(subject: Subject, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the tokens of a text without its brackets, and [start, stop) of each answer.

    The space before an answer belongs to it, as for tokenizers.
    """
    tokens: list[int] = []
    answers, before = [], ""
    for number, piece in enumerate(_ANSWER.split(text)):
        if number % 2:
            start = len(tokens)
            tokens += subject.encode(before + piece)
            answers.append((start, len(tokens)))
            continue
        kept = piece.removesuffix(" ")
        before = piece[len(kept) :]
        tokens += subject.encode(kept) if kept else []
    return tokens, [(start, stop) for start, stop in answers if start > 0]


def of_file(path: Path) -> tuple[tuple[str, str], ...]:
    """Returns (task, text) of every line; raises ``SoftmapError`` with the number of a broken
    one.
    """
    found = []
    for number, line in enumerate(read(path, _Line), 1):
        lines = line["texts"] if isinstance(line["texts"], list) else [line["texts"]]
        if not all(isinstance(one, str) for one in lines):
            raise SoftmapError(f"{path} line {number}: expected texts, found other things in texts")
        text = "\n".join(lines)
        if not _ANSWER.search(text):
            raise SoftmapError(f"{path} line {number}: expected answers in [ ], found none")
        found.append((str(line["task_id"]), text))
    return tuple(found)


def _text(generator: np.random.Generator, things: list[str], end: Any) -> str:
    """Returns lines of three people with a thing each and a statement about one; six are asked.

    No person is in two lines.
    """
    lines = []
    everybody = [PEOPLE[n] for n in generator.permutation(len(PEOPLE))]
    for number in range(LINES):
        people = everybody[3 * number : 3 * number + 3]
        owned = [things[n] for n in generator.permutation(len(things))[:3]]
        told = ", ".join(f"{who} has a {what}" for who, what in zip(people, owned, strict=True))
        n = int(generator.integers(3))
        phrase, answer = end(people[n], owned[n])
        shown = f"[{answer}]" if number >= LINES - SCORED else answer
        lines.append(f"{told}. {phrase} {shown}.")
    return "\n".join(lines)


_ALL = [thing for kind in OBJECTS.values() for thing in kind]
_KIND = {thing: kind for kind, things in OBJECTS.items() for thing in things}


def _lookup(generator: np.random.Generator) -> str:
    return _text(generator, _ALL, lambda who, what: (f"So {who} has a", what))


def _category(generator: np.random.Generator) -> str:
    return _text(generator, _ALL, lambda who, what: (f"So {who} has a kind of", _KIND[what]))


def _use(generator: np.random.Generator) -> str:
    return _text(generator, list(USES), lambda who, what: (f"So {who} can", USES[what]))


def _colour(generator: np.random.Generator) -> str:
    """Returns a text in which a second lookup replaces knowledge: which thing, then its colour."""
    things = [_ALL[n] for n in generator.permutation(len(_ALL))[:6]]
    painted = dict(zip(things, generator.permutation(len(COLOURS)), strict=False))
    intro = " ".join(f"The {thing} is {COLOURS[n]}." for thing, n in painted.items())
    return f"{intro}\n" + _text(
        generator, things, lambda who, what: (f"So the thing of {who} is", COLOURS[painted[what]])
    )


_MAKERS = {"thing": _lookup, "kind": _category, "use": _use, "colour": _colour}
SUITE = CompositionSuite
