"""Talking-heads attention (Shazeer et al. 2020, arXiv 2003.02436)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class HeadMix(Edit):
    """m'_g = sum_h P[h,g] m_h: a static mix over heads, the identity at init."""

    keeps_zeros = True
    kernel = "head_mix"
    no_weight_decay = ("mix",)  # decay would pull the identity towards zero

    def __init__(self, place: Place, stage: str) -> None:
        super().__init__()
        self.stage, self.maps = stage, place.heads
        self.mix = nn.Parameter(torch.eye(place.heads))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the mix P, (H, H)."""
        return {"mix": self.mix}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the mixed maps, (B, H, R, C)."""
        mixed = t["mix"].to(m.dtype).T @ m.flatten(2)
        return mixed.view_as(m)

    def start_as_identity(self) -> bool:
        """Sets the mix to the identity."""
        nn.init.eye_(self.mix)
        return True


@variant(
    "talking-heads",
    "Talking-heads attention",
    paper="arXiv 2003.02436",
    source="https://arxiv.org/abs/2003.02436",
)
def talking_heads(*, pre: bool = True, post: bool = True) -> Parts:
    """Static H x H mixes of the maps before (P_l) and after (P_w) the softmax, identity at init.

    S'_g = sum_h P_l[h,g] S_h,   A'_g = sum_h P_w[h,g] softmax(S')_h
    """
    return Parts(
        scores=[lambda place: HeadMix(place, "scores")] if pre else [],
        weights=[lambda place: HeadMix(place, "weights")] if post else [],
    )
