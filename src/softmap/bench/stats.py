"""Medians and percentiles of interleaved rounds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def shuffled(items: Sequence[T], turn: int) -> list[T]:
    """The items in an order of that round: each leaves caches warm or cold for the next one, so
    none may always follow the same. The same round has the same order again."""
    return random.Random(turn).sample(list(items), len(items))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, 10th and 90th percentile, and how many values there were."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle), "low": float(low), "high": float(high), "count": len(values)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Of values to those of the same rounds of ``base``."""
    return spread([a / b for a, b in zip(values, base, strict=False)])
