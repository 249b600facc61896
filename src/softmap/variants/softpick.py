"""Softpick (Zuhri et al. 2025, arXiv 2504.20966)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from torch import Tensor

from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class Softpick(Edit):
    """A = relu(e^S - 1) / (sum_j |e^S - 1| + eps), both by e^-m, m = max(0, the row's largest S).

    The factor keeps e^S finite; it stands before eps, too, as in the authors' code.
    """

    stage = "normaliser"

    def __init__(self, place: Place, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns the rectified weights; a row sums to at most 1."""
        top = m.amax(-1, keepdim=True).clamp(min=0)
        above = band.zero((m - top).exp() - (-top).exp())
        return above.relu() / (above.abs().sum(-1, keepdim=True) + self.eps)


@variant(
    "softpick", "Softpick", paper="arXiv 2504.20966", source="https://arxiv.org/abs/2504.20966"
)
def softpick(*, eps: Annotated[float, Range(above=0, high=1)] = 1e-6) -> Parts:
    """Only scores above zero get weight, and the weights of a row need not sum to one.

        A[i,j] = relu(e^S[i,j] - 1) / (sum_j |e^S[i,j] - 1| + eps)

    No parameters. It needs the map.
    """
    return Parts(normaliser=[partial(Softpick, eps=eps)])
