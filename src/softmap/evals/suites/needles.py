"""Needles in a haystack: numbers of cities, hidden in held-out text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softmap.errors import SoftmapError, nearest
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, at_least, row
from softmap.evals.subject import Subject
from softmap.evals.words import CITIES

OPENER = "Some magic numbers are hidden in the text below. Remember them; you will be asked.\n\n"
DEPTHS = 11  #: depths of the grid: 0/11 to 10/11 of the hay
NEW = 20  #: tokens of the answer
# As in the public harness: a hundred entries, of which 69 are distinct; the choice is ours.
FAITHFUL_CITIES = (*CITIES, *CITIES[:31])


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens, the right numbers, and where things are.

    Attributes:
        spans: [start, stop) of each needle's sentence.
        answers: [start, stop) of the asked numbers.
        question: where the question begins.
    """

    tokens: list[int]
    numbers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    answers: tuple[tuple[int, int], ...]
    question: int


def sentence(city: str, number: Any) -> str:
    """Returns a needle."""
    return f"The special magic {city} number is: {number}.\n"


@dataclass(frozen=True)
class Needles(Suite):
    """N needles, R of them asked in one question; and one needle, by depth and length.

    ``fixed`` draws cities without repetition and counts a number as right if it stands alone;
    ``faithful`` keeps the public harness's repeated cities and its substrings.
    """

    way: str = "fixed"
    samples: int = 20
    counts: tuple[tuple[int, int], ...] = ((1, 1), (2, 1), (4, 1), (6, 1), (4, 2), (6, 2))
    lengths: int = 4
    depths: tuple[int, ...] = tuple(range(DEPTHS))
    per_cell: int = 5

    name = "needles"
    title = "Needles in a haystack"
    asks = "Is a number that a long text states once found again, among others of its kind?"
    reads_text = True
    metrics = (
        Metric("found", "Number found, one asked", "share", "higher", 0.02),
        Metric("found_two", "Numbers found, two asked", "share", "higher", 0.02),
        Metric("answer_loss", "Loss of the right number (nats)", "nats", "lower", 0.05),
        Metric("one", "One needle found", "share", "higher", 0.02),
    )
    pictures = (
        Picture(
            "found", "needles", "Needles in the text", "One of them is asked for.",
        ),
        Picture("answer_loss", "needles", "Needles in the text", "One of them is asked for."),
        Picture(
            "one", "depth", "Depth in the text", "One needle.", y="length", y_title="Tokens",
        ),
    )  # fmt: skip

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite in the form ``fixed`` or ``faithful``."""
        if argument not in ("", "fixed", "faithful"):
            hint = nearest(argument, ["fixed", "faithful"])
            raise SoftmapError(
                f"suite needles: expected fixed or faithful, found {argument!r}{hint}"
            )
        return cls(argument or "fixed")

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(
            self, samples=4, counts=((1, 1), (4, 1), (4, 2)), lengths=2, depths=(0, 5, 10),
            per_cell=1,
        )  # fmt: skip

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the model has no room for the least instance."""
        super().check(subject, setting)
        most = max(count for count, _ in self.counts)
        needed = len(self._frame(subject, most)) + NEW + 8
        at_least("context", setting.context, needed, self.name, subject)

    def _frame(self, subject: Subject, count: int) -> list[int]:
        """Returns everything of the longest prompt but the hay."""
        cities = sorted(CITIES, key=len)[-count:]
        text = OPENER + "".join(sentence(city, 50000) for city in cities) + question(cities[:2])
        return subject.encode(text)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields whether each asked number was found, and the loss of the answer."""
        hay = setting.heldout().tokens(subject.tokenizer)
        item = 0
        for count, asked in self.counts:
            for sample in range(self.samples):
                generator = setting.generator(count, asked, sample)
                places = generator.permutation(DEPTHS)[:count] / DEPTHS
                prompt = self.prompt(subject, hay, setting.context, places, asked, generator)
                name = "found" if asked == 1 else "found_two"
                yield row(name, item, self._found(subject, prompt), needles=count)
                if asked == 1:
                    yield row("answer_loss", item, answer_loss(subject, prompt), needles=count)
                item += 1
        yield from self._grid(subject, setting, hay, item)

    def _grid(
        self, subject: Subject, setting: Setting, hay: np.ndarray, item: int
    ) -> Iterator[Row]:
        shortest = len(self._frame(subject, 1)) + NEW + 8
        step = (setting.context - shortest) / max(1, self.lengths - 1)
        for number in range(self.lengths):
            length = round(shortest + step * number)
            for depth in self.depths:
                for sample in range(self.per_cell):
                    generator = setting.generator(length, depth, sample, 1)
                    place = np.array([depth / DEPTHS])
                    prompt = self.prompt(subject, hay, length, place, 1, generator)
                    at = {"length": length, "depth": round(depth / DEPTHS, 3)}
                    yield row("one", item, self._found(subject, prompt), **at)
                    item += 1

    def prompt(
        self,
        subject: Subject,
        hay: np.ndarray,
        length: int,
        depths: Sequence[float] | np.ndarray,
        asked: int,
        generator: np.random.Generator,
    ) -> Prompt:
        """Returns a prompt of at most ``length`` tokens with its answer, needles at these depths
        of the hay.
        """
        entries = CITIES if self.way == "fixed" else FAITHFUL_CITIES
        drawn = generator.permutation(len(entries))[: len(depths)]
        cities = [entries[n] for n in drawn]
        numbers = [str(n) for n in generator.integers(1, 50001, len(cities))]
        wanted = generator.permutation(len(cities))[:asked]
        end = subject.encode("\n" + question([cities[n] for n in wanted]))
        start = subject.encode(OPENER)
        needles = [subject.encode(sentence(c, n)) for c, n in zip(cities, numbers, strict=True)]
        room = length - NEW - len(start) - len(end) - sum(map(len, needles))
        begin = int(generator.integers(0, max(1, len(hay) - room)))
        straw = hay[begin : begin + room].tolist()
        tokens, spans = _buried(start, straw, needles, depths)
        right = tuple(numbers[n] for n in wanted)
        answers = tuple(
            _of_number(subject, spans[n], needles[n], cities[n], numbers[n]) for n in wanted
        )
        return Prompt([*tokens, *end], right, tuple(spans), answers, len(tokens))

    def _found(self, subject: Subject, prompt: Prompt) -> float:
        """Returns the share of the asked numbers that the model's answer contains."""
        answer = subject.decode(subject.continued([prompt.tokens], NEW)[0])
        said = re.findall(r"\d+", answer)
        if self.way == "faithful":
            return float(np.mean([number in answer for number in prompt.numbers]))
        return float(np.mean([number in said for number in prompt.numbers]))


def question(cities: Sequence[str]) -> str:
    """Returns the needle's own sentence up to its number; for several cities a sentence like it."""
    if len(cities) == 1:
        return f"The special magic {cities[0]} number is:"
    return f"The special magic {' and '.join(cities)} numbers are:"


def answer_loss(subject: Subject, prompt: Prompt) -> float:
    """Returns the mean loss of the tokens of the right answer."""
    return answer_scores(subject, prompt)[1]


def answer_scores(subject: Subject, prompt: Prompt) -> tuple[float, float]:
    """Returns how the model rates the right answer after the prompt.

    That is 1 where each of its tokens is the likeliest, else 0; and their mean loss.
    """
    answer = subject.encode(" " + " and ".join(prompt.numbers))
    window = np.array([[*prompt.tokens, *answer]], np.int64)
    logits = subject.logits(window[:, :-1], keep=len(answer))[0].cpu()
    wanted = torch.as_tensor(answer)
    right = float((logits.argmax(-1) == wanted).all())
    return right, float(torch.nn.functional.cross_entropy(logits, wanted))


def _buried(
    start: list[int], straw: list[int], needles: list[list[int]], depths: Any
) -> tuple[list[int], list[tuple[int, int]]]:
    """Returns the text with its needles, and [start, stop) of each."""
    tokens, spans, done = list(start), {}, 0
    for n in np.argsort(depths, kind="stable"):
        place = round(float(depths[n]) * len(straw))
        tokens += straw[done:place]
        done = place
        spans[int(n)] = (len(tokens), len(tokens) + len(needles[n]))
        tokens += needles[n]
    return tokens + straw[done:], [spans[n] for n in range(len(needles))]


def _of_number(
    subject: Subject, span: tuple[int, int], needle: list[int], city: str, number: str
) -> tuple[int, int]:
    """Returns [start, stop) of the number's tokens in the whole prompt."""
    before = len(subject.encode(sentence(city, number).split(f" {number}")[0]))
    return span[0] + before, span[1] - 1


SUITE = Needles
