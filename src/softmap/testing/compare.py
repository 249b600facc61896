"""Comparisons whose message is one line: what differs, by how much, where."""

from __future__ import annotations

import torch
from torch import Tensor

# Two exact evaluations in float64 differ by the order of their sums.
TOLERANCE = 1e-9


def assert_same(got: Tensor, want: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """|got - want| <= tolerance * max(1, max |want|) everywhere; no NaN on either side."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    if not want.numel():
        return
    got, want = got.detach().double(), want.detach().double()
    off = (got - want).abs()
    worst, scale = float(off.nan_to_num(torch.inf).max()), max(1.0, float(want.abs().max()))
    assert worst <= tolerance * scale, (
        f"{what}: largest difference {worst:.1e} at {_place(off.nan_to_num(torch.inf))}, "
        f"expected at most {tolerance * scale:.0e}"
    )


def assert_equal(got: Tensor, want: Tensor, what: str) -> None:
    """Bit for bit."""
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"
    different = got != want
    assert not different.any(), (
        f"{what}: {int(different.sum())} of {want.numel()} numbers are not bitwise equal, "
        f"the first at {_place(different.to(torch.uint8))}"
    )


def _place(off: Tensor) -> tuple[int, ...]:
    """The index of the largest entry."""
    return tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
