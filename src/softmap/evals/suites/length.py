"""Length extrapolation: the same targets with more and more text in front of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from softmap.data import order
from softmap.errors import SoftmapError, reason
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject


@dataclass(frozen=True)
class Length(Suite):
    """The last tokens of a window are predicted after 1, 2, 4, ... times the context, up to 16
    times or length:TIMES. There are 256 targets, or a quarter of the context where that is
    fewer.
    """

    windows: int = 16
    times: int = 16

    name = "length"
    title = "Length extrapolation"
    asks = "Does the model still predict well beyond the length that it was trained with?"
    reads_text = True
    least_context = 8
    metrics = (
        Metric("loss", "Loss of the last tokens (nats)", "nats", "lower"),
        Metric("excess", "Loss at the longest minus at 1x (nats)", "nats", "lower"),
    )
    pictures = (
        Picture(
            "loss", "length", "Tokens read (log scale)",
            "The targets are the same at every length; only the text in front of them grows.",
            log=True,
        ),
    )  # fmt: skip

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite up to the given multiple of the context."""
        if not argument:
            return cls()
        if not argument.isascii() or not argument.isdecimal() or not 2 <= int(argument[:9]) <= 4096:
            raise SoftmapError(
                f"suite length: expected a multiple of the context, 2 to 4096, found {argument!r}"
            )
        return cls(times=int(argument))

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=4, times=4)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``loss`` and ``excess`` of each instance."""
        tokens = setting.heldout().tokens(subject.tokenizer)
        lengths = self.lengths(setting.context, len(tokens))
        if not lengths:
            raise SoftmapError(
                f"suite length: expected held-out text of more than {setting.context} tokens, "
                f"found {len(tokens)}"
            )
        targets = min(256, setting.context // 4)
        windows = order.windows(tokens, lengths[-1], self.windows)
        for item, window in enumerate(windows):
            found = {}
            for length in lengths:
                loss = self._loss(subject, window[-(length + 1) :], targets, setting)
                if loss is not None:
                    found[length] = loss
                    yield row("loss", item, loss, length=length)
            if lengths[-1] in found:
                yield row("excess", item, found[lengths[-1]] - found[lengths[0]])

    def lengths(self, context: int, tokens: int) -> list[int]:
        """Returns 1, 2, 4, ... times the context, as far as the text is long enough."""
        found = [context * 2**n for n in range(self.times.bit_length())]
        return [length for length in found if length <= context * self.times and length < tokens]

    def _loss(
        self, subject: Subject, window: np.ndarray, targets: int, setting: Setting
    ) -> float | None:
        """Returns the mean loss, or None where the model has no positions for this many tokens."""
        try:
            return float(subject.last_losses(window, targets).mean())
        except (SoftmapError, IndexError, RuntimeError) as error:
            if len(window) - 1 <= setting.context:
                raise
            setting.tell(f"{subject.name}: no loss at {len(window) - 1} tokens: {reason(error)}")
            return None


SUITE = Length
