"""Massive activations: how far the largest values stand out."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.watch import Watch, edited


@dataclass(frozen=True)
class Outliers(Suite):
    """Windows of held-out text. Of the hidden states between the blocks: largest |h|, its ratio
    to the median, and the kurtosis (3: normal) over all values of a layer. Of the attention
    logits (scores as they enter the softmax, visible cells): largest |s|, kurtosis. The headline
    is the mean over layers of each window's.
    """

    windows: int = 32

    name = "outliers"
    title = "Activation outliers"
    asks = "How far do the largest hidden states and attention logits stand out?"
    reads_text = True
    least_context = 4
    metrics = (
        Metric("hidden_max", "Largest |hidden|", "", "lower", 0.1),
        Metric("hidden_ratio", "Largest over median |hidden|", "", "lower", 0.5),
        Metric("hidden_kurtosis", "Kurtosis of hidden states", "", "lower", 0.5),
        Metric("logit_max", "Largest |attention logit|", "", "lower", 0.5),
        Metric("logit_kurtosis", "Kurtosis of attention logits", "", "lower", 0.5),
    )
    pictures = (
        Picture("hidden_ratio", "layer", "Layer (after block)", "0: the embeddings."),
        Picture("hidden_kurtosis", "layer", "Layer (after block)", "3: a normal distribution."),
        Picture("logit_max", "layer", "Layer"),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=4)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the statistics of each window, by layer."""
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        for item, window in enumerate(windows[:, :-1]):
            for layer, logits in enumerate(logits_of(subject, window)):
                yield row("logit_max", item, logits.largest, layer=layer)
                yield row("logit_kurtosis", item, logits.kurtosis, layer=layer)
            for layer, state in enumerate(subject.hidden(window)[:-1]):
                size = state.abs()
                largest, median = float(size.max()), float(size.median())
                yield row("hidden_max", item, largest, layer=layer)
                yield row("hidden_ratio", item, largest / max(median, 1e-12), layer=layer)
                yield row("hidden_kurtosis", item, kurtosis(state), layer=layer)


class Moments:
    """The largest size and the kurtosis of numbers that come a band at a time."""

    def __init__(self) -> None:
        self.largest, self.count, self.sums = 0.0, 0, np.zeros(4)

    def add(self, x: Tensor) -> None:
        """Add the numbers of ``x``, of any shape."""
        if not x.numel():
            return
        x = x.double()
        self.largest = max(self.largest, float(x.abs().max()))
        self.count += x.numel()
        self.sums += [float(x.pow(n).sum()) for n in (1, 2, 3, 4)]

    @property
    def kurtosis(self) -> float:
        """E (x - mean)^4 / var^2; 0 where all are equal."""
        m1, m2, m3, m4 = self.sums / max(1, self.count)
        variance = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return float(fourth / variance**2) if variance > 1e-12 * max(m2, 1e-300) else 0.0


def kurtosis(x: Tensor) -> float:
    """Returns E (x - mean)^4 / var^2 over all numbers."""
    away = (x.double() - x.double().mean()).flatten()
    variance = away.square().mean()
    return float(away.pow(4).mean() / variance**2) if variance > 0 else 0.0


def logits_of(subject: Subject, window: np.ndarray) -> list[Moments]:
    """Returns the moments of each layer's visible scores, for one sequence (T,)."""
    layers: dict[int, Moments] = defaultdict(Moments)

    def see(layer: int, m: Tensor, visible: Tensor, rows: Tensor, cols: Tensor) -> None:
        cells = m[:, visible].float()
        layers[layer].add(cells[torch.isfinite(cells)])

    with edited(subject.model, lambda layer: [Watch("scores", layer, see)]):
        subject.logits(window[None], keep=1)
    return [layers[n] for n in sorted(layers)]


SUITE = Outliers
