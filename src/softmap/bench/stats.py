"""Medians and percentiles of interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softmap.lab.speed import shuffled, spread

__all__ = ["ratios", "shuffled", "spread"]


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Returns the ratios of values to those of the same rounds of ``base``."""
    return spread([a / b for a, b in zip(values, base, strict=False)])
