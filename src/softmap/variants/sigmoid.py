"""Sigmoid attention (Ramapuram et al. 2024, arXiv 2409.04431)."""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class Sigmoid(Edit):
    """A = sigmoid(S - log n_i), n_i the number of keys that row i sees."""

    stage = "normaliser"

    def __init__(self, place: Place) -> None:
        super().__init__()

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns sigmoid(S - log n_i); rows need not sum to 1."""
        return torch.sigmoid(m - band.count.clamp(min=1).to(m.dtype).log())


@variant(
    "sigmoid",
    "Sigmoid attention",
    paper="arXiv 2409.04431",
    source="https://arxiv.org/abs/2409.04431",
)
def sigmoid() -> Parts:
    """Each key by itself: no row is normalised, and keys do not compete.

        A[i,j] = sigmoid(S[i,j] - log n_i),   n_i: keys that row i sees

    No parameters. It needs the map.
    """
    return Parts(normaliser=[Sigmoid])
