"""Low precision: attention logits, weights, and the cache as small integers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from softmap.errors import SoftmapError
from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.suites.needles import DEPTHS, Needles, answer_scores
from softmap.evals.watch import Rounded, edited, rounded

BITS = (8, 6, 4)
PLAIN = 32  #: the bits of a row that is not rounded


@dataclass(frozen=True)
class Bits(Suite):
    """Held-out loss with parts of the model rounded, minus the loss without. Rounding is
    symmetric and to nearest, with a scale of the largest size: of each row of a map for the
    logits (before the softmax, after all other edits, new for every row), of each output of a
    linear layer for the weights, of each token and head for keys and values. And one needle in
    the text (as in the suite needles) with the logits rounded: its number counts as found where
    every token of it is the likeliest.
    """

    windows: int = 32
    needles: int = 22  #: prompts, two at each depth

    name = "bits"
    title = "Low precision"
    asks = "What does it cost to hold attention logits, weights or the cache in few bits?"
    reads_text = True
    least_context = 4
    metrics = (
        Metric("logits", "Logits rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
        Metric("weights", "Weights rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
        Metric("cache", "Cache rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
        Metric(
            "needles", "Logits rounded: needles found", "share", "higher", 0.02, at={"bits": 4}
        ),
        Metric(
            "needle_loss", "Logits rounded: loss of the needle's number (nats)", "nats", "lower",
            0.05, at={"bits": 4},
        ),
    )  # fmt: skip
    pictures = (
        Picture("logits", "bits", "Bits", "Attention logits rounded."),
        Picture("weights", "bits", "Bits", "Linear layers rounded."),
        Picture("cache", "bits", "Bits", "Keys and values rounded."),
        Picture("needles", "bits", "Bits (32: not rounded)", "Attention logits rounded."),
        Picture("needle_loss", "bits", "Bits (32: not rounded)", "Attention logits rounded."),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=4, needles=4)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the loss that rounding adds to each window, by part and number of bits."""
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        plain = subject.losses(windows).mean(1)
        for what, way in _WAYS.items():
            for bits in BITS:
                with way(subject.model, bits):
                    found = subject.losses(windows).mean(1)
                for item, added in enumerate(found - plain):
                    yield row(what, item, added, bits=bits)
        yield from self._needles(subject, setting)

    def _needles(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the rows of the needle; nothing where the context has no room for one."""
        suite = Needles(counts=((1, 1),))
        try:
            suite.check(subject, setting)
        except SoftmapError as error:
            setting.tell(f"bits: no needles: {error}")
            return
        hay = setting.heldout().tokens(subject.tokenizer)
        for item in range(self.needles):
            place = [item % DEPTHS / DEPTHS]
            drawn = setting.generator(item, 2)
            prompt = suite.prompt(subject, hay, setting.context, place, 1, drawn)
            for bits in (PLAIN, *BITS):
                way = contextlib.nullcontext() if bits == PLAIN else _logits(subject.model, bits)
                with way:
                    right, loss = answer_scores(subject, prompt)
                yield row("needles", item, right, bits=bits)
                yield row("needle_loss", item, loss, bits=bits)


def _logits(model: nn.Module, bits: int) -> contextlib.AbstractContextManager[object]:
    return edited(model, lambda _: [Rounded(bits)])


def _cache(model: nn.Module, bits: int) -> contextlib.AbstractContextManager[object]:
    return edited(model, lambda _: [], lambda x: rounded(x, bits))


@contextlib.contextmanager
def weights_rounded(model: nn.Module, bits: int) -> Iterator[None]:
    """Round the weights of every linear layer but a tied head within the block, a scale per
    output.
    """
    found = _linear_weights(model)
    kept = [weight.detach().clone() for weight in found]
    try:
        with torch.no_grad():
            for weight in found:
                weight.copy_(rounded(weight, bits))
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(found, kept, strict=True):
                weight.copy_(before)


def _linear_weights(model: nn.Module) -> list[torch.Tensor]:
    """Returns the weights (out, in) of linear layers, each once; GPT-2's are stored transposed."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        turned = type(module).__name__ == "Conv1D"
        if (isinstance(module, nn.Linear) or turned) and id(weight) not in embeddings:
            found[id(weight)] = weight.T if turned else weight
    return list(found.values())


_WAYS = {"logits": _logits, "weights": weights_rounded, "cache": _cache}
SUITE = Bits
