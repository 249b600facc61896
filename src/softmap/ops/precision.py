"""How close a backend must be to float64: the rule.

The measure is the plain map ([`softmap.ops.yardstick`][]), dense and in the precision of the inputs
throughout: a backend's error may be twice (of gradients: three times) that of the plain map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch

# Times the plain map's own error: outputs, gradients.
OUTPUT, GRADIENT = 2.0, 3.0
# Results of fewer numbers are pooled.
FEW = 64
POOLED = "gradients of few numbers"


class Errors(NamedTuple):
    """Relative root mean square errors of one result: the backend's and the plain map's.

    Attributes:
        size, numbers: the norm and the number of entries of the truth.
    """

    ours: float
    plain: float
    size: float = 1.0
    numbers: int = FEW


Draw = dict[str, Errors]


def finest(dtype: torch.dtype) -> float:
    """Returns the relative error below which nothing is asked: the rounding of the result's
    dtype, and in float32 1e-5, where the order of summation alone makes so much.
    """
    return max(torch.finfo(dtype).eps / 2, 1e-5)


def medians(draws: Sequence[Draw]) -> Draw:
    """Returns the median errors over several draws, taken over all results of few numbers
    together: a single one, such as a lambda's gradient, is at times right by luck. Infinite
    where any error is not finite.
    """
    groups: dict[str, list[Errors]] = {}
    for draw in draws:
        for name, e in draw.items():
            groups.setdefault(POOLED if _few(name, e) else name, []).append(e)
    return {name: _median(every) for name, every in groups.items()}


def _median(every: list[Errors]) -> Errors:
    finite = all(math.isfinite(e.ours) for e in every)
    ours = median(e.ours for e in every) if finite else math.inf
    return Errors(ours, median(e.plain for e in every))


def alone(draws: Sequence[Draw]) -> Draw:
    """Returns the errors of each result of few numbers by itself, over all draws together, so
    that a wrong one does not hide among others. The plain map's error counts at least as much
    as it does over all results.
    """
    every = [e for draw in draws for name, e in draw.items() if _few(name, e)]
    names = dict.fromkeys(name for draw in draws for name, e in draw.items() if _few(name, e))
    found = {name: _joined([draw[name] for draw in draws if name in draw]) for name in names}
    least = _joined(every).plain if every else 0.0
    return {name: e._replace(plain=max(e.plain, least)) for name, e in found.items()}


def _few(name: str, e: Errors) -> bool:
    return e.numbers < FEW and name != "output"


def _joined(every: list[Errors]) -> Errors:
    """Returns the errors of several results as if they were one result."""
    size = math.sqrt(sum(e.size**2 for e in every))
    ours, plain = (
        math.sqrt(sum((error * e.size) ** 2 for error, e in zip(errors, every, strict=True))) / size
        for errors in ([e.ours for e in every], [e.plain for e in every])
    )
    return Errors(ours, plain, size, sum(e.numbers for e in every))


def fault(found: Draw, dtype: torch.dtype) -> str | None:
    """Returns the first result that is too far off, in one line, or None."""
    return next((why for n, e in found.items() if (why := _beyond(n, dtype, e))), None)


def excess(name: str, found: Errors, dtype: torch.dtype) -> float:
    """Returns the error over what is allowed: more than 1 is too much."""
    return found.ours / _allowed(name, found, dtype)


def _allowed(name: str, found: Errors, dtype: torch.dtype) -> float:
    return (OUTPUT if name == "output" else GRADIENT) * max(found.plain, finest(dtype))


def _beyond(name: str, dtype: torch.dtype, found: Errors) -> str | None:
    if not math.isfinite(found.ours):
        return f"{name} in {dtype}: not finite, with every fresh buffer filled with NaN first"
    allowed = _allowed(name, found, dtype)
    if found.ours <= allowed:
        return None
    times = OUTPUT if name == "output" else GRADIENT
    return (
        f"{name} in {dtype}: error {found.ours:.1e}, more than {times:g} x the plain map's "
        f"{found.plain:.1e} (root mean squares relative to float64; allowed {allowed:.1e})"
    )
