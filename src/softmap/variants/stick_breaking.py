"""Stick-breaking attention (Tan et al. 2024, arXiv 2410.17980)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class StickBreaking(Edit):
    """A_ij = s(S_ij) prod_{j<k<i} (1 - s(S_ik)) for j < i, s the sigmoid: from the nearest key on,
    each breaks its share off the stick that is left. rest: what remains goes to the own token."""

    stage = "normaliser"
    defined_for = "causal"

    def __init__(self, place: Place, rest: bool) -> None:
        super().__init__()
        self.rest = rest

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns each key's share of the stick; the rest goes to the own token, if asked for."""
        m = torch.where(band.diagonal, -torch.inf, m)
        kept = F.logsigmoid(-m)  # of the stick, by each key; 0 at the own token
        nearer = band.after(kept)
        w = (F.logsigmoid(m) + nearer).exp()
        if not self.rest:
            return w
        left = band.zero(kept).sum(-1, keepdim=True).exp()
        return torch.where(band.diagonal, left, w)


@variant(
    "stick-breaking",
    "Stick-breaking attention",
    paper="arXiv 2410.17980",
    source="https://arxiv.org/abs/2410.17980",
)
def stick_breaking(*, rest: bool = False) -> Parts:
    """No softmax, no positions: the nearest key takes its share, those before it of what is left.

        A[i,j] = s(S[i,j]) prod_{j<k<i} (1 - s(S[i,k])),   j < i,   s the sigmoid

    A row does not see its own token, unless by rest: A[i,i] = prod_{k<i} (1 - s(S[i,k])), so that
    its weights sum to one. No parameters. It needs the map.
    """
    return Parts(normaliser=[partial(StickBreaking, rest=rest)], backbone={"position": "none"})
