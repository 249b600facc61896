"""Differential attention (Ye et al. 2024, arXiv 2410.05258)."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.fields import Range
from softmap.maps import Band, Edit, Rows
from softmap.variants._parts import Parts, Place, variant


def lambda_init_of(layer: int) -> float:
    """0.8 - 0.6 exp(-0.3 l), l counted from 0 (section 2.1 of the paper counts from 1)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


def halves(heads: int, who: str) -> int:
    """Half of an even number of maps; an error naming ``who`` otherwise."""
    if heads % 2:
        raise SoftmapError(f"{who} subtracts pairs of maps: expected an even number, found {heads}")
    return heads // 2


def subtract(pairs: Tensor, weight: Tensor) -> Tensor:
    """x[:, 2h] - weight * x[:, 2h+1] for (B, 2H, ...) maps or outputs."""
    return pairs[:, 0::2] - weight * pairs[:, 1::2]


class Difference(Edit):
    """A'[h] = A[2h] - lambda A[2h+1], one lambda per layer from four vectors in R^d."""

    stage = "weights"
    keeps_zeros = True
    kernel = "subtract_pairs"
    folds_output = True

    def __init__(self, place: Place, lambda_init: float | None = None) -> None:
        super().__init__()
        halves(place.heads, "diff")
        self.lambda_init = lambda_init_of(place.layer) if lambda_init is None else lambda_init
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(torch.randn(place.head_dim) * 0.1) for _ in range(4)
        )

    def heads_out(self, heads: int) -> int:
        """Returns half of ``heads``; raises ``ValueError`` for an odd number."""
        return halves(heads, "diff")

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns lambda, a scalar."""
        one, two = self.lambda_q1 * self.lambda_k1, self.lambda_q2 * self.lambda_k2
        # float32 or wider: under half precision the two exponentials nearly cancel.
        one, two = (x.to(torch.promote_types(x.dtype, torch.float32)).sum() for x in (one, two))
        return {"lambda": one.exp() - two.exp() + self.lambda_init}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns A[2h] - lambda A[2h+1], (B, H/2, R, C)."""
        return subtract(m, t["lambda"])

    def fold_output(self, o: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns the same difference of two plain attentions, (B, H/2, T, d')."""
        return subtract(o, t["lambda"])


class HeadNorm(Edit):
    """RMSNorm over each head's channels (one affine weight for all heads) times 1 - lambda_init."""

    stage = "output"
    kernel = "head_norm"

    def __init__(self, place: Place, lambda_init: float | None = None, eps: float = 1e-5) -> None:
        super().__init__()
        start = lambda_init_of(place.layer) if lambda_init is None else lambda_init
        self.scale, self.eps = 1.0 - start, eps
        self.weight = nn.Parameter(torch.ones(place.value_dim))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns the weight that all heads share, (d',)."""
        return {"weight": self.weight}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the normed heads, (B, H, T, d'); the norm is taken in float32 or wider."""
        wide = m.to(torch.promote_types(m.dtype, torch.float32))
        weight = (t["weight"] * self.scale).to(wide.dtype)
        return F.rms_norm(wide, wide.shape[-1:], weight, self.eps).to(m.dtype)


@variant(
    "diff",
    "Differential attention",
    paper="arXiv 2410.05258",
    source="https://arxiv.org/abs/2410.05258",
)
def diff(
    *,
    lambda_init: Annotated[float, Range(0, below=1)] | None = None,
    head_norm: bool = True,
    norm_eps: Annotated[float, Range(above=0, high=1)] = 1e-5,
) -> Parts:
    """Two softmax maps a head, subtracted; half the heads, each with a value of twice the width.

        A'[h]  = softmax(S[2h]) - lambda softmax(S[2h+1])
        lambda = exp(lq1.lk1) - exp(lq2.lk2) + lambda_init,  lambda_init(l) = 0.8 - 0.6 exp(-0.3 l)
        o'[h]  = (1 - lambda_init) RMSNorm(A'[h] v[h])

    Parameters and FLOPs equal those of a Transformer. Options: a constant lambda_init; head_norm
    and its norm_eps.
    """
    return Parts(
        weights=[partial(Difference, lambda_init=lambda_init)],
        output=[partial(HeadNorm, lambda_init=lambda_init, eps=norm_eps)] if head_norm else [],
    )
