"""Recall in text: pairs of tokens that only this document contains, when they come again.

After Arora et al. 2023 (arXiv 2312.04927, section 3), who call such tokens associative recall hits
and leave out pairs that are frequent in the training text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject


@dataclass(frozen=True)
class Repeats(Suite):
    """Windows of held-out text. A token is repeated where it already followed the token before
    it earlier in the window, and no other document contains that pair: what follows the first
    token of the pair can be known from the window alone. All other tokens are new.
    """

    windows: int = 128

    name = "repeats"
    title = "Recall in text"
    asks = "Is a pair of tokens that only this text contains predicted when it comes again?"
    reads_text = True
    least_context = 8
    metrics = (
        Metric("repeated", "Loss of repeated tokens (nats)", "nats", "lower"),
        Metric("recalled", "Repeated tokens that were the likeliest", "share", "higher"),
        Metric("new", "Loss of all other tokens (nats)", "nats", "lower"),
    )
    pictures = (
        Picture(
            "repeated", "distance", "Tokens since the pair came first (log scale)",
            "In bins of an octave, by their upper end.", log=True,
        ),
    )  # fmt: skip

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=16)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the loss and accuracy of repeated and other tokens of each window."""
        text = setting.heldout()
        single = pairs_of_one_document(text.tokens(subject.tokenizer), subject.tokenizer.eod)
        windows = text.windows(subject.tokenizer, setting.context, self.windows)
        size = subject.batch(setting.context)
        for start in range(0, len(windows), size):
            some = windows[start : start + size]
            losses, right = subject.judged(some)
            for n, window in enumerate(some):
                yield from _of_window(start + n, distances(window, single), losses[n], right[n])


def _of_window(item: int, far: np.ndarray, losses: np.ndarray, right: np.ndarray) -> Iterator[Row]:
    hits = np.flatnonzero(far)
    if len(hits) < len(far):
        yield row("new", item, losses[far == 0].mean())
    for hit in hits:
        octave = 2 ** int(far[hit] - 1).bit_length()
        yield row("repeated", item, losses[hit], distance=octave)
        yield row("recalled", item, right[hit], distance=octave)


def pairs_of_one_document(tokens: np.ndarray, end: int) -> set[tuple[int, int]]:
    """Returns the pairs of neighbours that a single document contains; ``end`` closes documents."""
    document = np.cumsum(tokens == end)
    first: dict[tuple[int, int], int] = {}
    shared = set()
    for pair, place in zip(
        zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True),
        document[:-1].tolist(),
        strict=True,
    ):
        if first.setdefault(pair, place) != place:
            shared.add(pair)
    return first.keys() - shared


def distances(window: np.ndarray, single: set[tuple[int, int]]) -> np.ndarray:
    """Returns, for each token but the first, how many tokens ago it last followed the same token.

    It is 0 where it did not, or where the pair is not one of ``single``: (T - 1,) for a window
    (T,).
    """
    last: dict[tuple[int, int], int] = {}
    found = np.zeros(len(window) - 1, np.int64)
    for i, pair in enumerate(zip(window[:-1].tolist(), window[1:].tolist(), strict=True)):
        if pair in single and pair in last:
            found[i] = i - last[pair]
        last[pair] = i
    return found


SUITE = Repeats
