"""Steps that the authors' code takes in float32 even in a float64 model, as variants of their
own.

A float64 run of their code is reproduced to 1e-10 only with the same roundings; in float32 and
below they make no difference, and nothing outside of this folder has them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.maps import Band
from softmap.variants import Parts, variant
from softmap.variants.diff import Difference, HeadNorm
from softmap.variants.shaped import Shaped

DIFF, SHAPED = f"{__name__}:diff", f"{__name__}:shaped"


class RoundedDifference(Difference):
    """exp(lq.lk) of float32 numbers."""

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns lambda, its two exponentials rounded to float32."""
        pairs = ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        one, two = ((q * k).sum().float().exp().to(q.dtype) for q, k in pairs)
        return {"lambda": one - two + self.lambda_init}


class RoundedHeadNorm(HeadNorm):
    """RMS and division in float32, weight and factor in the model's dtype."""

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the normed heads, rounded where the authors' code rounds."""
        x = m.float()
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(m.dtype) * t["weight"] * self.scale


class RoundedShaped(Shaped):
    """C[i,j] = 1/(i+1) as a float32 number; there is no closed form for that."""

    folds_output = False

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the shaped map with C rounded to float32."""
        visible = band.visible.float()
        uniform = (visible / visible.sum(-1, keepdim=True).clamp(min=1)).to(m.dtype)
        rest = {n: x for n, x in t.items() if n != "gamma"}
        return super().edit(m, band, rest) - t["gamma"][:, None, None] * uniform


@variant("diff", "Differential attention, its authors' roundings")
def diff() -> Parts:
    """Returns ``diff`` with lambda and the head norm in float32."""
    return Parts(weights=[RoundedDifference], output=[RoundedHeadNorm])


@variant("shaped", "Shaped attention, its authors' roundings")
def shaped(**backbone: Any) -> Parts:
    """Returns ``sas`` with the uniform map in float32."""
    return Parts(weights=[RoundedShaped], backbone=backbone)
