"""Medians and percentiles of interleaved rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, 10th and 90th percentile, and how many values there were."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle), "low": float(low), "high": float(high), "count": len(values)}


def ratios(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Of values to those of the same rounds of ``base``."""
    return spread([a / b for a, b in zip(values, base, strict=False)])
