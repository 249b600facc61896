"""Intervals over instances, against numbers computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from softmap.evals.summary import interval


def test_students_interval() -> None:
    """Mean 2.5, standard deviation 1.29099 of four; t(0.975, 3) = 3.18245."""
    measure: Any = SimpleNamespace(unit="nats")
    assert interval([1.0, 2.0, 3.0, 4.0], measure) == pytest.approx((0.445739, 4.554261), abs=1e-5)
    assert interval([1.0], measure) is None


def test_wilsons_interval() -> None:
    """Two of four, z^2 = 3.84146: the centre 1/2, half of it sqrt(z^2 / (4 (n + z^2)))."""
    measure: Any = SimpleNamespace(unit="share")
    half = (3.841459 / (4 * (4 + 3.841459))) ** 0.5
    expected = pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert interval([0.0, 1.0, 0.0, 1.0], measure) == expected
