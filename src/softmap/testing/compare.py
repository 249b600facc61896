"""Comparisons with a message of one line: what is compared, both numbers, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Two exact evaluations in float64 differ by the order of their sums.
TOLERANCE = 1e-9
# What the axes of a layer's output, of a map and of an output edit's tensor are called.
ROWS = ("sequence", "row", "channel")
MAP = ("sequence", "head", "row", "key")
HEADS = ("sequence", "head", "row", "channel")


def assert_same(
    got: Tensor,
    want: Tensor,
    what: str,
    tolerance: float = TOLERANCE,
    *,
    sides: tuple[str, str] = ("found", "expected"),
    axes: Sequence[str] = (),
) -> None:
    """Assert |got - want| <= tolerance * max(1, max |want|) everywhere, with no NaN on either
    side.

    Args:
        what, sides, axes: for the message: what is compared, what the two are, and the names of the
            axes.
    """
    _assert_shape(got, want, what)
    if not want.numel():
        return
    got, want = got.detach().double(), want.detach().double()
    worst = float(_off(got, want).max())
    allowed = tolerance * max(1.0, float(want.abs().max()))
    assert worst <= allowed, (
        f"{what}: {difference(got, want, sides, axes)} "
        f"(largest difference {worst:.1e}, allowed {allowed:.0e})"
    )


def assert_equal(
    got: Tensor,
    want: Tensor,
    what: str,
    *,
    sides: tuple[str, str] = ("found", "expected"),
    axes: Sequence[str] = (),
) -> None:
    """Assert that both are equal bit for bit."""
    _assert_shape(got, want, what)
    different = int((got != want).sum())
    assert not different, (
        f"{what}: {difference(got, want, sides, axes)} "
        f"({different} of {want.numel()} numbers are not bitwise equal)"
    )


def difference(got: Tensor, want: Tensor, sides: tuple[str, str], axes: Sequence[str] = ()) -> str:
    """Returns the two numbers that are furthest apart, and their index."""
    got, want = got.detach().double(), want.detach().double()
    off = _off(got, want)
    index = torch.unravel_index(off.argmax(), off.shape)
    place = [int(i) for i in index]
    names = [f"{name} {i}" for name, i in zip(axes, place, strict=True)] if axes else place
    a, b = float(got[index]), float(want[index])
    digits = next((n for n in range(3, 17) if f"{a:.{n}g}" != f"{b:.{n}g}"), 17)
    where = ", ".join(map(str, names))
    return f"{sides[0]}: {a:.{digits}g}, {sides[1]}: {b:.{digits}g}, at [{where}]"


def _assert_shape(got: Tensor, want: Tensor, what: str) -> None:
    assert got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}"


def _off(got: Tensor, want: Tensor) -> Tensor:
    return (got - want).abs().nan_to_num(torch.inf)
