"""Where the attention of the last prompt token goes: to the answer, or to the text around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject
from softmap.evals.suites.needles import DEPTHS, Needles, Prompt
from softmap.evals.watch import Watch, edited


@dataclass(frozen=True)
class Allocation(Suite):
    """One needle; the last token of the question is about to say its number. Its row of every
    map: |weights| over their sum, on the number, and on the hay; signed sums beside. Means over
    all layers and heads.
    """

    samples: int = 8
    depths: tuple[int, ...] = (0, 3, 5, 8, 10)

    name = "allocation"
    title = "Attention to the answer"
    asks = "How much of the attention goes to the answer, how much to the text around it?"
    reads_text = True
    metrics = (
        Metric("answer", "Attention on the answer", "share", "higher", 0.01),
        Metric("needle", "Attention on the needle's sentence", "share", "higher", 0.01),
        Metric("noise", "Attention on all else but the question", "share", "lower", 0.02),
        Metric("answer_signed", "Sum of weights on the answer", "", "higher", 0.01),
        Metric("noise_signed", "Sum of weights on all else", "", "", 0.02),
    )
    pictures = (
        Picture("answer", "depth", "Depth of the needle", "Share of |weights|."),
        Picture("noise", "depth", "Depth of the needle", "Share of |weights|."),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, samples=2, depths=(0, 5, 10))

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the model has no room for one needle."""
        super().check(subject, setting)
        Needles(counts=((1, 1),)).check(subject, setting)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the mass on the number and on the hay for each prompt, by depth."""
        hay, needles, item = setting.heldout().tokens(subject.tokenizer), Needles(), 0
        for depth in self.depths:
            for sample in range(self.samples):
                generator = setting.generator(depth, sample, 2)
                place = np.array([depth / DEPTHS])
                prompt = needles.prompt(subject, hay, setting.context, place, 1, generator)
                for name, value in masses(subject, prompt).items():
                    yield row(name, item, value, depth=round(depth / DEPTHS, 3))
                item += 1


def masses(subject: Subject, prompt: Prompt) -> dict[str, float]:
    """Returns the metrics for one prompt, from the last row of every map."""
    found: list[dict[str, float]] = []
    (needle,), (answer,), last = prompt.spans, prompt.answers, len(prompt.tokens) - 1

    def see(layer: int, m: Tensor, visible: Tensor, rows: Tensor, cols: Tensor) -> None:
        if int(rows[-1]) != last:
            return
        weights = m[:, -1].float()
        share = weights.abs() / weights.abs().sum(-1, keepdim=True).clamp(min=1e-30)
        at: Any = cols
        on_needle = (at >= needle[0]) & (at < needle[1])
        on_answer = (at >= answer[0]) & (at < answer[1])
        rest = ~on_needle & (at < prompt.question)
        found.append(
            {
                "answer": float(share[:, on_answer].sum(-1).mean()),
                "needle": float(share[:, on_needle].sum(-1).mean()),
                "noise": float(share[:, rest].sum(-1).mean()),
                "answer_signed": float(weights[:, on_answer].sum(-1).mean()),
                "noise_signed": float(weights[:, rest].sum(-1).mean()),
            }
        )

    with edited(subject.model, lambda layer: [Watch("weights", layer, see)]):
        subject.logits(np.array([prompt.tokens]), keep=1)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


SUITE = Allocation
