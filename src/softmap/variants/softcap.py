"""Soft-capped scores, as in Gemma 2 (arXiv 2408.00118)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor

from softmap.fields import Range
from softmap.maps import Band, Edit
from softmap.variants._parts import Parts, Place, variant


class Softcap(Edit):
    """S' = c tanh(S / c)."""

    kernel = "softcap"
    cap: Tensor

    def __init__(self, place: Place, cap: float) -> None:
        super().__init__()
        self.register_buffer("cap", torch.tensor(cap))

    def layer_tensors(self) -> dict[str, Tensor]:
        """Returns c, a number."""
        return {"cap": self.cap}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        """Returns c tanh(S / c)."""
        cap = t["cap"].to(m.dtype)
        return cap * (m / cap).tanh()


@variant(
    "softcap", "Soft-capped scores", paper="arXiv 2408.00118",
    source="https://arxiv.org/abs/2408.00118",
)  # fmt: skip
def softcap(*, cap: Annotated[float, Range(above=0)] = 50.0) -> Parts:
    """Scores that cannot leave (-c, c).

        S' = c tanh(S / c),   c = 50

    No parameters.
    """
    return Parts(scores=[partial(Softcap, cap=float(cap))])
