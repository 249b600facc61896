"""Differential attention V2 (Microsoft, blog of 20 January 2026)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant
from softmap.variants.diff import halves, subtract


class TokenDifference(Edit):
    """A'[h] = A[2h] - sigmoid(w_h . x_i) A[2h+1]: lambda per token and head, no head norm.

    Args:
        gain: lambda = g_h sigmoid(w_h . x_i), a trained gain g_h, 0 at init.
    """

    stage = "weights"
    keeps_zeros = True
    kernel = "subtract_pairs"
    folds_output = True

    def __init__(self, place: Place, gain: bool = False) -> None:
        super().__init__()
        self.maps, heads = place.heads, halves(place.heads, "diff2")
        self.to_lambda = nn.Linear(place.dim, heads, bias=False)
        self.gain = nn.Parameter(torch.zeros(heads)) if gain else None

    def heads_out(self, heads: int) -> int:
        """Returns half of ``heads``; raises ``ValueError`` for an odd number."""
        return halves(heads, "diff2")

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the lambda of every query token and head, (B, T, H/2)."""
        weight = torch.sigmoid(self.to_lambda(x))
        return {"lambda": weight if self.gain is None else self.gain * weight}

    def start_as_identity(self) -> bool:
        """Sets the gains to 0: nothing is subtracted. Without gains there is no such start."""
        if self.gain is not None:
            nn.init.zeros_(self.gain)
        return self.gain is not None

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns A[2h] - lambda A[2h+1], (B, H/2, R, C)."""
        return subtract(m, t["lambda"].transpose(1, 2)[..., None].to(m.dtype))

    def fold_output(self, o: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns the same difference of two plain attentions, (B, H/2, T, d')."""
        return subtract(o, t["lambda"].transpose(1, 2)[..., None].to(o.dtype))


@variant(
    "diff2",
    "Differential attention V2",
    paper="Differential Transformer V2 (blog, 2026)",
    source="https://huggingface.co/blog/microsoft/diff-attn-v2",
    graft={"gain": True},
)
def diff2(*, gain: bool = False) -> Parts:
    """Twice the query heads, the same key and value heads; neighbours share their KV head.

        o[h,i] = o[2h,i] - sigmoid(w_h . x_i) o[2h+1,i]

    No head norm and no lambda_init; the cache is that of a Transformer. Costs one more query
    projection and twice the score FLOPs.

    Args:
        gain: g_h sigmoid(w_h . x_i) instead, g_h trained from 0: nothing is subtracted at the
            start.
    """
    return Parts(weights=[partial(TokenDifference, gain=gain)], backbone={"query_expansion": 2})
