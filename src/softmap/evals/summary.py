"""From rows to numbers: means over instances with intervals, for the headline and by condition.

An instance counts once, however many rows it has (the queries of one sequence are not independent):
its value is the mean of its rows. The interval says how far the mean would move with other
instances, for the same model: Wilson's for shares, otherwise Student's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmap.evals.question import Metric, Row, Suite

Key = tuple[str, tuple[tuple[str, Any], ...] | None]
_FIXED = ("measure", "item", "value")


@dataclass(frozen=True)
class MetricCell:
    """Values by instance of one metric under some conditions (None: the headline)."""

    metric: str
    at: dict[str, Any] | None
    items: dict[int, float]

    @property
    def key(self) -> Key:
        """The metric and its conditions, which identify the cell."""
        return self.metric, None if self.at is None else tuple(self.at.items())

    @property
    def mean(self) -> float:
        """The mean over instances."""
        return float(np.mean(list(self.items.values())))


def cells(suite: Suite, rows: Iterable[Row]) -> dict[Key, MetricCell]:
    """Returns all cells of one model's rows: the headlines first, then by condition in their
    order.
    """
    known = {metric.name: metric for metric in suite.metrics}
    by: dict[Key, dict[int, list[float]]] = {}
    for one in rows:
        metric = known[one["measure"]]
        at = {name: value for name, value in one.items() if name not in _FIXED}
        if all(at.get(name) == value for name, value in metric.at.items()):
            by.setdefault((metric.name, None), defaultdict(list))[one["item"]].append(one["value"])
        if at:
            key = (metric.name, tuple(at.items()))
            by.setdefault(key, defaultdict(list))[one["item"]].append(one["value"])
    made = {
        key: MetricCell(key[0], None if key[1] is None else dict(key[1]), _means(items))
        for key, items in by.items()
    }
    return {key: made[key] for key in sorted(made, key=lambda key: key[1] is not None)}


def _means(items: dict[int, list[float]]) -> dict[int, float]:
    return {item: float(np.mean(values)) for item, values in items.items()}


def interval(values: Iterable[float], metric: Metric) -> tuple[float, float] | None:
    """Returns 95 % limits of the mean over instances; None for a single instance."""
    from scipy import stats

    found = np.asarray(list(values), float)
    n = len(found)
    if metric.unit == "share":
        z2 = float(stats.norm.ppf(0.975)) ** 2
        middle = (found.mean() + z2 / (2 * n)) / (1 + z2 / n)
        p = float(np.clip(found.mean(), 0, 1))
        half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return max(0.0, float(middle - half)), min(1.0, float(middle + half))
    if n < 2:
        return None
    half = float(stats.t.ppf(0.975, n - 1) * found.std(ddof=1) / n**0.5)
    return float(found.mean()) - half, float(found.mean()) + half


def answers(suite: Suite, rows: Iterable[Row], *, values: bool = True) -> list[dict[str, Any]]:
    """Returns the cells of one model as plain data for [`softmap.report.questions`][].

    Args:
        values: include the value of every instance, by which two single models are paired.
    """
    metrics = {metric.name: metric for metric in suite.metrics}
    return [_plain(cell, metrics[cell.metric], values) for cell in cells(suite, rows).values()]


def _plain(cell: MetricCell, metric: Metric, values: bool) -> dict[str, Any]:
    low, high = interval(cell.items.values(), metric) or (None, None)
    found = {
        "measure": cell.metric, "at": cell.at, "mean": cell.mean, "low": low, "high": high,
        "items": len(cell.items),
    }  # fmt: skip
    return found | ({"values": cell.items} if values else {})
