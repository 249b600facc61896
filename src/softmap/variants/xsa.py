"""Exclusive self-attention (Zhai 2026, arXiv 2603.09078)."""

from __future__ import annotations

from torch import Tensor

from softmap.maps import Edit, Rows, compute_dtype
from softmap.variants._parts import Parts, Place, variant

LEAST = 1e-12  # of |v|^2: a value of zeros has no direction, and nothing is taken off


class Exclusive(Edit):
    """o' = o - (o . v_i) v_i / |v_i|^2, v_i the value of the row's own token."""

    stage = "output"
    defined_for = "self"

    def __init__(self, place: Place) -> None:
        super().__init__()

    def edit(self, m: Tensor, rows: Rows, t: dict[str, Tensor]) -> Tensor:
        """Returns the output without its part along the own token's value."""
        o, v = (x.to(compute_dtype(m)) for x in (m, rows.value))
        along = (o * v).sum(-1, keepdim=True) / v.square().sum(-1, keepdim=True).clamp(min=LEAST)
        return (o - along * v).to(m.dtype)


@variant(
    "xsa",
    "Exclusive self-attention",
    paper="arXiv 2603.09078",
    source="https://arxiv.org/abs/2603.09078",
)
def xsa() -> Parts:
    """The output without its part along the token's own value; what is left is of other tokens.

        o'[h,i] = o[h,i] - (o[h,i] . v[h,i]) v[h,i] / |v[h,i]|^2

    No parameters, no map: it runs on every backend.
    """
    return Parts(output=[Exclusive])
