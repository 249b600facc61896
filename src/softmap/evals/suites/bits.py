"""Few bits: attention logits, weights, and the cache as small integers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from softmap.evals.question import Measure, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.watch import Rounded, edited, rounded

BITS = (8, 6, 4)


@dataclass(frozen=True)
class Bits(Suite):
    """Held-out loss with parts of the model rounded, minus the loss without. Always symmetric,
    round to nearest, a scale of the largest size: of each row of a map for the logits (before the
    softmax, after all other edits, new for every row), of each output of a linear layer for the
    weights, of each token and head for keys and values."""

    windows: int = 32

    name = "bits"
    title = "Few bits"
    asks = "What does it cost to hold attention logits, weights or the cache in few bits?"
    reads_text = True
    least_context = 4
    measures = (
        Measure("logits", "Logits rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
        Measure("weights", "Weights rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
        Measure("cache", "Cache rounded: loss added (nats)", "nats", "lower", at={"bits": 4}),
    )
    pictures = (
        Picture("logits", "bits", "Bits", "Attention logits rounded."),
        Picture("weights", "bits", "Bits", "Linear layers rounded."),
        Picture("cache", "bits", "Bits", "Keys and values rounded."),
    )

    def quick(self) -> Suite:
        return dataclasses.replace(self, windows=4)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        plain = subject.losses(windows).mean(1)
        for what, way in _WAYS.items():
            for bits in BITS:
                with way(subject.model, bits):
                    found = subject.losses(windows).mean(1)
                for item, added in enumerate(found - plain):
                    yield row(what, item, added, bits=bits)


def _logits(model: nn.Module, bits: int) -> contextlib.AbstractContextManager[object]:
    return edited(model, lambda _: [Rounded(bits)])


def _cache(model: nn.Module, bits: int) -> contextlib.AbstractContextManager[object]:
    return edited(model, lambda _: [], lambda x: rounded(x, bits))


@contextlib.contextmanager
def weights_rounded(model: nn.Module, bits: int) -> Iterator[None]:
    """Within it every linear layer but a tied head has rounded weights, a scale for each output."""
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
    """Weights (out, in) of linear layers, each once; GPT-2's are stored the other way round."""
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
