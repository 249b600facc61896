"""Scalable softmax (Nakanishi 2025, arXiv 2501.19399)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant

START = 0.43


class Scalable(Edit):
    """S' = s_h log(n_i) S, n_i the number of keys that row i sees, s (H,) from 0.43."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.maps = place.heads
        self.s = nn.Parameter(torch.full((place.heads,), START))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the scales s, (H,)."""
        return {"s": self.s}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns s_h log(n_i) S."""
        return m * (t["s"].to(m.dtype)[:, None, None] * _log(band.count, m))

    def fold_query(self, q: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns s_h log(n_i) q, computed in float32 or wider."""
        wide = q.to(torch.promote_types(q.dtype, torch.float32))
        factor = t["s"].to(wide.dtype)[:, None] * _log(rows.count, wide)[:, None]
        return (wide * factor[..., None]).to(q.dtype)


def _log(count: Tensor, like: Tensor) -> Tensor:
    return count.clamp(min=1).to(like.dtype).log()


@variant(
    "ssmax",
    "Scalable softmax",
    paper="arXiv 2501.19399",
    source="https://arxiv.org/abs/2501.19399",
)
def ssmax() -> Parts:
    """Scores that grow with the logarithm of the context, so that attention does not fade in it.

        S'[h,i,j] = s_h log(n_i) S[h,i,j],   n_i: keys that row i sees;  s = 0.43 at init

    One parameter a head. It is a scaled query and needs no map.
    """
    return Parts(scores=[Scalable])
