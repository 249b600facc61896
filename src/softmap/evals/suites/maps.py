"""Statistics of the maps: entropy, sink, sign, rank."""

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

PROBES = 256


@dataclass(frozen=True)
class Maps(Suite):
    """Windows of held-out text. For each layer the mean over heads and rows (without the first
    row) of: entropy of |weights| over their sum, their share on the first token and below zero,
    and the sum of the row. Effective rank of a map A: (sum s^2)^2 / sum s^4 over its singular
    values, from ||A||^2 and A^T A applied to 256 random probes (exact up to 256 tokens). Rows
    are seen in bands; no map is kept.
    """

    windows: int = 8

    name = "maps"
    title = "Attention maps in numbers"
    asks = "How sharp, how signed, how low in rank are the maps, and how much rests on a sink?"
    reads_text = True
    least_context = 4
    metrics = (
        Metric("entropy", "Entropy of a row (nats)", "nats", "", 0.05),
        Metric("sink", "Attention on the first token", "share", "", 0.02),
        Metric("negative", "Share of |weights| below zero", "share", "", 0.02),
        Metric("row_sum", "Sum of a row", "", "", 0.02),
        Metric("rank", "Effective rank", "", "", 0.5),
    )
    pictures = (
        Picture("entropy", "layer", "Layer"),
        Picture("sink", "layer", "Layer"),
        Picture("negative", "layer", "Layer"),
        Picture("rank", "layer", "Layer"),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=2)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields a row for each window, layer and statistic."""
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        for item, window in enumerate(windows[:, :-1]):
            for layer, found in enumerate(statistics(subject, window)):
                for name, value in found.items():
                    yield row(name, item, value, layer=layer)


def statistics(subject: Subject, window: np.ndarray) -> list[dict[str, float]]:
    """Returns the metrics of each layer for one sequence (T,)."""
    layers: dict[int, _Layer] = defaultdict(lambda: _Layer(len(window)))

    def see(layer: int, m: Tensor, visible: Tensor, rows: Tensor, cols: Tensor) -> None:
        layers[layer].add(m, rows, cols)

    with edited(subject.model, lambda layer: [Watch("weights", layer, see)]):
        subject.logits(window[None], keep=1)
    return [layers[n].metrics() for n in sorted(layers)]


def _probes(length: int) -> Tensor:
    """Returns (T, n) vectors z with E |M z|^2 = ||M||^2: random signs, or all unit vectors."""
    if length <= PROBES:
        return torch.eye(length, dtype=torch.float64) * length**0.5
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (length, PROBES), generator=generator)
    return signs.double() * 2 - 1


class _Layer:
    """Sums over the rows of one layer's maps, a band at a time."""

    def __init__(self, length: int) -> None:
        self.probes = _probes(length)
        self.sums: dict[str, float] = defaultdict(float)
        self.rows = 0
        self.squares: Tensor | float = 0.0  # (H,) ||A||^2
        self.turned: Tensor | None = None  # (H, T, probes) A^T A times the probes

    def add(self, m: Tensor, rows: Tensor, cols: Tensor) -> None:
        """Add rows m (H, R, C) that were not seen before."""
        w = m.double().cpu()
        self._spectrum(w, cols.cpu())
        w = w[:, (rows > 0).cpu()]
        if not w.shape[1]:
            return
        size = w.abs()
        share = size / size.sum(-1, keepdim=True).clamp(min=1e-30)
        self.sums["entropy"] += float(torch.special.entr(share).sum(-1).mean(0).sum())
        if int(cols[0]) == 0:
            self.sums["sink"] += float(share[..., 0].mean(0).sum())
        self.sums["negative"] += float((share * (w < 0)).sum(-1).mean(0).sum())
        self.sums["row_sum"] += float(w.sum(-1).mean(0).sum())
        self.rows += w.shape[1]

    def _spectrum(self, w: Tensor, cols: Tensor) -> None:
        if self.turned is None:
            self.turned = w.new_zeros(w.shape[0], *self.probes.shape)
        self.squares = self.squares + w.square().sum((1, 2))
        self.turned[:, cols] += w.transpose(1, 2) @ (w @ self.probes[cols])

    def metrics(self) -> dict[str, float]:
        assert self.turned is not None
        fourth = self.turned.square().sum(1).mean(-1)  # E |A^T A z|^2 = sum of s^4
        rank = torch.as_tensor(self.squares).square() / fourth.clamp(min=1e-300)
        names = ("entropy", "sink", "negative", "row_sum")
        means = {name: self.sums[name] / max(1, self.rows) for name in names}
        return {**means, "rank": float(rank.mean())}


SUITE = Maps
