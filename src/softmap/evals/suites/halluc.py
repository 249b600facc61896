"""Contextual hallucination: answers that are not in the document."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from softmap.errors import SoftmapError
from softmap.evals import hub
from softmap.evals.jsonl import read
from softmap.evals.judge import CORRECT
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject
from softmap.evals.words import CITIES, COLOURS, OBJECTS, PEOPLE

NEW, LONG = 12, 100  #: tokens of an answer: to a made-up document, to a judged one
UNKNOWN = "not stated"
_FACTS = {
    "lives in": ("Where does {} live?", CITIES),
    "works in": ("Where does {} work?", CITIES),
    "owns a": ("What does {} own?", [one for kind in OBJECTS.values() for one in kind]),
    "likes the colour": ("Which colour does {} like?", COLOURS),
}


class _Line(TypedDict):
    document: str
    question: str
    reference: str


@dataclass(frozen=True)
class HallucCase:
    """A prompt, the answer that its document states (None: it states none), and all possible
    answers.
    """

    prompt: str
    answer: str | None
    possible: tuple[str, ...]


@dataclass(frozen=True)
class Halluc(Suite):
    """A document of made-up facts, two questions answered as examples, and one more question:
    for half of the documents the answer is stated, for the others it is not ("not stated").
    Right: the answer contains the stated value and no other. Hallucinated: any value that the
    document does not state for that person. halluc:xsum, cnn_dailymail, multi_news and hotpot_qa
    read the Hub, halluc:FILE JSON lines of document, question and reference, and a judge
    (--judge) says what is correct; what it does not clearly say is not.
    """

    cases: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    documents: int = 64
    people: int = 4

    name = "halluc"
    title = "Contextual hallucination"
    asks = "Does the model say what its document says, and nothing that it does not?"
    reads_tokens = True
    metrics = (
        Metric("correct", "Answers right", "share", "higher", 0.02),
        Metric("hallucinated", "Answers made up", "share", "lower", 0.02),
        Metric("no_judgement", "Answers without a judgement", "share", "lower", 0.02),
    )
    pictures = (Picture("correct", "stated", "Does the document say it?"),)

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with documents and questions from a file or a set of the Hub."""
        if not argument:
            return cls()
        if hub.is_set(argument, hub.DOCUMENTS):
            return cls(hub.documents(argument))
        lines = read(Path(argument), _Line)
        return cls(tuple((one["document"], one["question"], one["reference"]) for one in lines))

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, cases=self.cases[:8], documents=8)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where a judge is missing, or room for one document."""
        super().check(subject, setting)
        if self.cases and setting.judge is None:
            raise SoftmapError("suite halluc:FILE needs a judge: --judge http://HOST:PORT/v1")
        if not self.cases:
            case = self.case(setting.generator(0))
            needed = len(subject.encode(case.prompt)) + NEW + 8
            at_least("context", setting.context, needed, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``correct`` and ``hallucinated`` of each instance."""
        if self.cases:
            yield from self._judged(subject, setting)
            return
        for item in range(self.documents):
            case = self.case(setting.generator(item), stated=item % 2 == 0)
            tokens = subject.encode(case.prompt)
            said = subject.decode(subject.continued([tokens], NEW)[0]).split("\n")[0]
            right, made_up = graded(case, said)
            stated = "no" if case.answer is None else "yes"
            yield row("correct", item, right, stated=stated)
            yield row("hallucinated", item, made_up, stated=stated)

    def case(self, generator: np.random.Generator, stated: bool = True) -> HallucCase:
        """Returns a document with its questions."""
        people = [PEOPLE[n] for n in generator.permutation(len(PEOPLE))[: self.people + 1]]
        kinds = list(_FACTS)
        facts = {}
        for who in people[:-1]:
            for kind in kinds:
                values = _FACTS[kind][1]
                facts[who, kind] = values[int(generator.integers(len(values)))]
        # One fact of a person is left out, and all of the last person, who is not in the document.
        missing = (people[0], kinds[int(generator.integers(len(kinds)))])
        told = [(*key, value) for key, value in facts.items() if key != missing]
        told = [told[n] for n in generator.permutation(len(told))]
        document = " ".join(f"{who} {kind} {value}." for who, kind, value in told)
        *examples, asked = [told[n] for n in generator.permutation(len(told))[:2]]
        known = (asked[0], asked[1])
        shown = [
            _question(examples[0][0], examples[0][1], examples[0][2]),
            _question(people[-1], kinds[0], UNKNOWN),
        ]
        who, kind = known if stated else missing
        prompt = "\n".join([document, *shown, _question(who, kind, "").rstrip()])
        return HallucCase(prompt, asked[2] if stated else None, tuple(_FACTS[kind][1]))

    def _judged(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        for item, (document, question, reference) in enumerate(self.cases):
            end = subject.encode(f"\nQuestion: {question}\nAnswer:")
            room = setting.context - len(end) - LONG
            tokens = [*subject.encode(document)[: max(0, room)], *end]
            said = subject.decode(subject.continued([tokens], LONG)[0]).split("\nQuestion:")[0]
            found = setting.judge.judge(document, question, reference, said.strip())
            yield row("correct", item, found == CORRECT)
            yield row("no_judgement", item, found not in (CORRECT, "wrong"))
        told = ", ".join(f"{count} {what}" for what, count in setting.judge.counts.items())
        setting.tell(f"halluc: the judge so far: {told}")


def graded(case: HallucCase, said: str) -> tuple[bool, bool]:
    """Returns (right, made up) for an answer."""
    given = {value for value in case.possible if re.search(rf"\b{re.escape(value)}\b", said)}
    if case.answer is None:
        return UNKNOWN in said and not given, bool(given)
    return given == {case.answer}, bool(given - {case.answer})


def _question(who: str, kind: str, answer: str) -> str:
    return f"Question: {_FACTS[kind][0].format(who)} Answer: {answer}"


SUITE = Halluc
