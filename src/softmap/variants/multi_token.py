"""Multi-token attention (Golovneva et al. 2025, arXiv 2504.00927)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Builder, Parts, Place, variant
from softmap.variants.diff import HeadNorm
from softmap.variants.talking_heads import HeadMix


class KeyQueryConv(Edit):
    """m'[h,i,j] = sum_{a<rows, |b|<=keys//2} w[h,a,b] m[h,i-a,j+b], m zero where it is hidden.

    w (H, 1, rows, keys), the identity at init; its last row is a = 0.
    """

    no_weight_decay = ("w",)  # decay would pull the identity towards zero

    def __init__(self, place: Place, stage: str, rows: int, keys: int) -> None:
        super().__init__()
        self.stage, self.maps, self.halo, self.pad = stage, place.heads, rows - 1, keys // 2
        self.w = nn.Parameter(torch.empty(place.heads, 1, rows, keys))
        self.start_as_identity()

    def start_as_identity(self) -> bool:
        """Sets the kernel to 1 at its own cell and to 0 elsewhere."""
        nn.init.zeros_(self.w)
        with torch.no_grad():
            self.w[:, :, -1, self.pad] = 1.0
        return True

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the kernels, (H, 1, rows, keys)."""
        return {"w": self.w}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns each map convolved with its own kernel."""
        m = F.pad(band.zero(m), (self.pad, self.pad, self.halo, 0))
        return F.conv2d(m, t["w"].to(m.dtype), groups=m.shape[1])


@variant(
    "multi-token",
    "Multi-token attention",
    paper="arXiv 2504.00927",
    source="https://arxiv.org/abs/2504.00927",
)
def multi_token(
    *,
    rows: Annotated[int, Range(1, 64)] = 6,
    keys: Annotated[int, Range(1, 63)] = 11,
    post: bool = True,
    heads: bool = True,
    head_norm: bool = True,
) -> Parts:
    """Maps convolved over the last rows and the neighbouring keys, then mixed over heads.

        S'[h,i,j]  = sum_{a<c_q, |b|<=c_k/2} w[h,a,b] S[h,i-a,j+b],  S'' = mix over heads of S'
        A'         = the same of A, with its own w (post) and mix
        o'[h]      = (1 - lambda_init) RMSNorm(o[h]),  lambda_init(l) = 0.8 - 0.6 exp(-0.3 l)

    All of it starts as the identity, but for the norm. rows, keys: c_q and c_k (odd). heads: the
    mixes, over all heads. head_norm: the norm, that of diff. It needs the map, and earlier rows: no
    packed documents.
    """
    conv = partial(KeyQueryConv, rows=rows, keys=keys)
    if keys % 2 == 0:
        raise SoftmapError(f"multi-token: expected an odd number of keys, found {keys}")

    def edits(stage: str, convolve: bool) -> list[Builder]:
        made: list[Builder] = [partial(conv, stage=stage)] if convolve else []
        return [*made, partial(HeadMix, stage=stage)] if heads else made

    norm = [HeadNorm] if head_norm else []
    return Parts(scores=edits("scores", True), weights=edits("weights", post), output=norm)
