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
    assert worst <= tolerance * scale, f"{what}: off by {worst:.1e} ({int(off.argmax())}th of it)"


def assert_equal(got: Tensor, want: Tensor, what: str) -> None:
    """Bit for bit."""
    different = int((got != want).sum()) if got.shape == want.shape else -1
    assert different == 0, f"{what}: {different} of {want.numel()} numbers are not bitwise equal"
