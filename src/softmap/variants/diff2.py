"""Differential attention V2 (Microsoft, blog of 20 January 2026)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant
from softmap.variants.diff import halves, subtract


class TokenDifference(Edit):
    """A'[h] = A[2h] - sigmoid(w_h . x_i) A[2h+1]: lambda per token and head, no head norm."""

    stage = "weights"
    keeps_zeros = True
    kernel = "subtract_pairs"
    folds_output = True

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.maps = place.heads
        self.to_lambda = nn.Linear(place.dim, halves(place.heads, "diff2"), bias=False)

    def heads_out(self, heads: int) -> int:
        return halves(heads, "diff2")

    def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
        return {"lambda": torch.sigmoid(self.to_lambda(x))}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return subtract(m, t["lambda"].transpose(1, 2)[..., None].to(m.dtype))

    def fold_output(
        self, o: Tensor, v: Tensor, mean: Tensor | None, t: dict[str, Tensor]
    ) -> Tensor:
        return subtract(o, t["lambda"].transpose(1, 2)[..., None].to(o.dtype))


@variant(
    "diff2",
    "Differential attention V2",
    paper="Differential Transformer V2 (blog, 2026)",
    source="https://huggingface.co/blog/microsoft/diff-attn-v2",
)
def diff2() -> Parts:
    """Twice the query heads, the same key and value heads; neighbours share their KV head.

        o[h,i] = o[2h,i] - sigmoid(w_h . x_i) o[2h+1,i]

    No head norm and no lambda_init; the cache is that of a Transformer. Costs one more query
    projection and twice the score FLOPs.
    """
    return Parts(weights=[TokenDifference], backbone={"query_expansion": 2})
