"""Contextual position encoding (Golovneva et al. 2024, arXiv 2405.18719)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class Contextual(Edit):
    """S' = S + q_i . e[p_ij], p_ij = sum_{k=j..i} sigmoid(S_ik), e[p] between two whole positions
    linear. e (P, d), the same for all heads, 0 at init; p goes no further than P - 1."""

    defined_for = "causal"
    no_weight_decay = ("e",)  # a table of embeddings

    def __init__(self, place: Place, positions: int) -> None:
        super().__init__()
        self.e = nn.Parameter(torch.zeros(positions, place.head_dim))

    def tensors_of_q(self, q: Tensor) -> dict[str, Tensor]:
        """Returns q_i . e[p] for every whole position p, (B, T, H, P)."""
        return {"q_e": (q @ self.e.T).transpose(1, 2)}  # (B, T, H, P)

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns S plus the positions' scores, linear between two whole positions."""
        at = t["q_e"].transpose(1, 2).to(m.dtype)  # (B, H, R, P)
        gates = torch.sigmoid(m)
        p = (band.zero(gates) + band.after(gates)).clamp(max=at.shape[-1] - 1)
        low = p.detach().long().clamp(0, at.shape[-1] - 2)  # in bounds, should p be NaN
        below, above = at.gather(-1, low), at.gather(-1, low + 1)
        return m + below + (p - low) * (above - below)


@variant(
    "cope",
    "Contextual position encoding",
    paper="arXiv 2405.18719",
    source="https://arxiv.org/abs/2405.18719",
)
def cope(*, positions: Annotated[int, Range(2, 4096)] = 64) -> Parts:
    """Positions that count what a head finds worth counting, instead of tokens.

        p[h,i,j]  = min(sum_{k=j..i} sigmoid(S[h,i,k]), P - 1)
        S'[h,i,j] = S[h,i,j] + q[h,i] . e[p[h,i,j]],   e linear between whole positions, 0 at init

    P d parameters, shared by the heads of a layer. positions: P. It needs the map.
    """
    return Parts(scores=[partial(Contextual, positions=positions)], backbone={"position": "none"})
