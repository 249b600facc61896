"""Attention sinks: a learnt score that every row may attend to, whose value is nothing.

gpt-oss (OpenAI 2025) learns one per head. With the score 0 it is the softmax off by one (Miller
2023).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant


class Sink(Edit):
    """A = e^S / (e^b + sum_j e^S), b (H,): learnt from N(0, 0.02), or 0."""

    stage = "normaliser"
    b: Tensor

    def __init__(self, place: Place, learnt: bool = True) -> None:
        super().__init__()
        self.maps = place.heads
        if learnt:
            self.b = nn.Parameter(torch.randn(place.heads) * 0.02)
        else:
            self.register_buffer("b", torch.zeros(place.heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the sinks' logits b, (H,)."""
        return {"b": self.b}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the softmax with one more column of logit b, that column left out."""
        b = t["b"].to(m.dtype)[:, None, None]
        return (m - torch.logaddexp(m.logsumexp(-1, keepdim=True), b)).exp()

    def fold_softmax(self, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns sigmoid(lse - b), the share of the weight that is left to the keys."""
        assert rows.lse is not None
        return torch.sigmoid(rows.lse - t["b"].to(rows.lse.dtype)[:, None])


@variant(
    "sink",
    "Attention sinks",
    paper="gpt-oss (OpenAI, 2025)",
    source="https://huggingface.co/openai/gpt-oss-20b",
)
def sink() -> Parts:
    """The softmax with one learnt score a head more, which takes weight and gives nothing.

        A[h,i,j] = e^S[h,i,j] / (e^b_h + sum_j e^S[h,i,j]),   b ~ N(0, 0.02) at init

    The same is o'[h,i] = o[h,i] sigmoid(lse[h,i] - b_h), so it needs no map.
    """
    return Parts(normaliser=[Sink])


@variant(
    "off-by-one",
    "Softmax off by one",
    source="https://www.evanmiller.org/attention-is-off-by-one.html",
)
def off_by_one() -> Parts:
    """The softmax with 1 added to its denominator: a row may look at nothing. No parameters.

    A = e^S / (1 + sum_j e^S)
    """
    return Parts(normaliser=[partial(Sink, learnt=False)])
