"""Held-out loss: over all tokens, by position, and cumulative."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject

_POSITION = "Position in the window (tokens, log scale)"


@dataclass(frozen=True)
class Loss(Suite):
    """Windows of held-out text, every token but the first predicted from those before it."""

    windows: int = 128

    name = "loss"
    title = "Held-out loss"
    asks = "How well is held-out text predicted, and how much does more context help?"
    reads_text = True
    least_context = 2
    metrics = (
        Metric("loss", "Loss (nats per token)", "nats", "lower"),
        Metric("bits_per_byte", "Bits per byte", "bits", "lower", 0.005),
        Metric("by_position", "Loss by position (nats per token)", "nats", "lower"),
        Metric("cumulative", "Mean loss up to a position (nats)", "nats", "lower"),
    )
    pictures = (
        Picture("by_position", "position", _POSITION, "In bins of an octave.", log=True),
        Picture("cumulative", "position", _POSITION, "Over all tokens up to there.", log=True),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=16)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the loss of each window: its mean, in bits per byte, and by position."""
        text = setting.heldout()
        windows = text.windows(subject.tokenizer, setting.context, self.windows)
        size = text.bytes_per_token(subject.tokenizer) * math.log(2)
        for item, losses in enumerate(subject.losses(windows)):
            yield row("loss", item, losses.mean())
            yield row("bits_per_byte", item, losses.mean() / size)
            for start, stop in octaves(len(losses)):
                yield row("by_position", item, losses[start:stop].mean(), position=stop)
                yield row("cumulative", item, losses[:stop].mean(), position=stop)


def octaves(length: int) -> list[tuple[int, int]]:
    """Returns [start, stop) of bins that end at powers of two, the last one at ``length``."""
    stops = [2**n for n in range((length - 1).bit_length())] + [length]
    return list(zip([0, *stops[:-1]], stops, strict=True))


SUITE = Loss
