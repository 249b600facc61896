"""What a graft changes before its first step: logits and loss on real tokens, new weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from softmap.evals.subject import Subject
from softmap.lab.grafting.source import GraftSource, put

WINDOWS = 4  #: windows of held-out text


@dataclass(frozen=True)
class Start:
    """The state of one arm at step 0.

    Attributes:
        difference: the largest difference of a logit.
        largest: the largest logit.
        before, after: the mean loss of the model and of the graft, in nats per token.
        added: by layer, the number of new weights of each parameter.
        changes: why the function has changed; empty where it has not.
    """

    label: str
    variant: str
    difference: float
    largest: float
    before: float
    after: float
    added: dict[int, dict[str, int]]
    changes: list[str]

    @property
    def weights(self) -> int:
        """The number of new weights."""
        return sum(sum(sizes.values()) for sizes in self.added.values())

    def plain(self) -> dict[str, Any]:
        """Returns plain values for JSON and the page."""
        return {**asdict(self), "weights": self.weights, "where": where(self.added)}

    def lines(self) -> Iterator[str]:
        """Returns lines for a terminal."""
        changes = "; ".join(self.changes)
        how = f"another function: {changes}" if changes else "the model's function"
        form = "" if self.variant == self.label else f" ({self.variant})"
        yield f"{self.label}{form}: starts as {how}"
        yield (
            f"  largest difference of a logit {self.difference:.2g} (logits up to "
            f"{self.largest:.3g}), loss {self.before:.4f} before, {self.after:.4f} after"
        )
        places = where(self.added)
        yield f"  {self.weights:,} weights added{': ' if places else ''}{places}"


def where(added: dict[int, dict[str, int]]) -> str:
    """Returns the new weights in words: ``layers 0-3 each q_proj.weight 1,024, edits.0.gain 4``.

    Layers that differ are listed separately.
    """
    alike: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for layer, sizes in added.items():
        alike.setdefault(tuple(sizes.items()), []).append(layer)
    return "; ".join(
        f"{_layers(layers)} " + ", ".join(f"{name} {size:,}" for name, size in sizes)
        for sizes, layers in alike.items()
        if sizes
    )


def _layers(numbers: list[int]) -> str:
    first, last = numbers[0], numbers[-1]
    if first == last:
        return f"layer {first}"
    every = last - first + 1 == len(numbers)
    return f"layers {f'{first}-{last}' if every else ', '.join(map(str, numbers))} each"


def starts(
    source: GraftSource,
    variants: Sequence[str],
    layers: Any,
    windows: np.ndarray,
    device: torch.device,
) -> Iterator[Start]:
    """Yields the start of each variant on ``windows`` (n, context + 1) of tokens.

    Raises ``SoftmapError`` for a variant that cannot be put into the model.
    """
    model = source.subject(device)
    for to in variants:
        yield _start(source, model, to, layers, windows, device)


def _start(
    source: GraftSource,
    model: Subject,
    to: str,
    layers: Any,
    windows: np.ndarray,
    device: torch.device,
) -> Start:
    mine = source.subject(device)
    torch.manual_seed(0)
    done = put(mine.model, to, layers)
    mine.model.eval()
    found = [_compared(model, mine, window) for window in windows]
    gc.collect()
    difference, largest, before, after = np.array(found).T
    return Start(
        to, done.variant, float(difference.max()), float(largest.max()), float(before.mean()),
        float(after.mean()), done.added, done.changes,
    )  # fmt: skip


def _compared(model: Subject, mine: Subject, window: np.ndarray) -> tuple[float, ...]:
    """Returns (largest difference, largest logit, loss, loss of the graft) on one window (T,)."""
    targets = torch.as_tensor(window[1:], device=model.device)
    a, b = (each.logits(window[None, :-1])[0] for each in (model, mine))
    losses = (F.cross_entropy(logits, targets).item() for logits in (a, b))
    return float((a - b).abs().max()), float(a.abs().max()), *losses
