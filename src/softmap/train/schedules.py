"""Learning rates as pure functions of the step (the WSD-S family of arXiv 2410.05192).

Conventions, the same for every schedule:

* Steps count from 0; step ``t`` makes update number ``t + 1``. A *budget* ``b`` means "after ``b``
  updates", so its last step is ``b - 1``. ``peak`` and ``floor`` are the rates hi and lo.
* Warm-up happens once: ``lr(t) = peak * (t + 1) / warmup`` for ``t < warmup``. Step 0 already
  learns, and step ``warmup - 1`` is the first at the peak.
* A descent that ends in budget ``b`` starts from ``s``, the last step at the peak. Its progress is
  ``p = (t - s) / (b - 1 - s)``: 0 at ``s``, 1 at step ``b - 1``, whose rate is the floor exactly.
  (With a floor of 0 that last step therefore changes nothing.)
* A decay of ``d`` steps takes the steps ``b - d .. b - 1``. At least one step at the peak precedes
  each decay of a cycle, and more than none separates it from the warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from softmap.errors import SoftmapError

DecayShape = Literal["reciprocal", "linear", "cosine"]
DecayOf = Literal["cycle", "so_far"]


@dataclass(frozen=True)
class Terms:
    """The numbers that every schedule is made from.

    Attributes:
        peak, floor: learning rates, ``0 <= floor <= peak``.
        warmup: steps of linear warm-up, fewer than the first budget.
        budgets: ascending numbers of updates; the last one is the length of the run.
        decay_fraction, decay_of: a decay takes this part of its cycle (``"cycle"``: the steps since
            the budget before) or of all steps up to its budget (``"so_far"``), rounded, at least
            one step.
        decay_shape: ``"reciprocal"``, ``"linear"`` or ``"cosine"``. The cosine schedules ignore it.
    """

    peak: float
    floor: float
    budgets: tuple[int, ...]
    warmup: int = 0
    decay_fraction: float = 0.1
    decay_of: DecayOf = "cycle"
    decay_shape: DecayShape = "reciprocal"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and 0 <= self.floor <= self.peak and self.peak > 0):
            raise SoftmapError(
                f"learning rates: expected 0 <= floor <= peak, peak > 0; "
                f"found floor {self.floor:g}, peak {self.peak:g}"
            )
        _check_budgets(self.budgets)
        if not 0 <= self.warmup < self.budgets[0]:
            raise SoftmapError(
                f"warmup: expected 0 or more steps and fewer than the first budget "
                f"({self.budgets[0]}), found {self.warmup}"
            )
        if not 0 < self.decay_fraction < 1:
            raise SoftmapError(
                f"decay_fraction: expected a number between 0 and 1, found {self.decay_fraction:g}"
            )
        for name, known in (("decay_of", DecayOf), ("decay_shape", DecayShape)):
            if getattr(self, name) not in get_args(known):
                raise SoftmapError(
                    f"{name}: expected one of {', '.join(get_args(known))}, "
                    f"found {getattr(self, name)!r}"
                )


def _check_budgets(budgets: tuple[int, ...]) -> None:
    previous = 0
    for budget in budgets:
        if budget <= previous:
            raise SoftmapError(
                f"budgets: expected ascending positive numbers of steps, found {list(budgets)}"
            )
        previous = budget
    if not budgets:
        raise SoftmapError("budgets: expected at least one, found none")


def descend(p: float, peak: float, floor: float, shape: DecayShape) -> float:
    """Returns the rate at progress ``p`` in [0, 1] from ``peak`` to ``floor``; the ends are exact.

    reciprocal: ``1/lr = (1-p)/peak + p/floor``; linear: ``(1-p) peak + p floor``;
    cosine: ``floor + (peak-floor)(1 + cos(pi p))/2``.
    """
    if p <= 0 or p >= 1:
        return peak if p <= 0 else floor
    if shape == "reciprocal":
        return 1 / ((1 - p) / peak + p / floor)
    if shape == "linear":
        return (1 - p) * peak + p * floor
    return floor + (peak - floor) * (1 + math.cos(math.pi * p)) / 2


@lru_cache(maxsize=64)
def decay_starts(terms: Terms) -> tuple[int, ...]:
    """Returns the first step of each budget's decay, where its ``wsd`` branch leaves the trunk.

    Raises SoftmapError if a decay leaves its cycle no step at the peak, or if the shape is
    reciprocal and the floor is 0 (1/lr would be infinite).
    """
    if terms.decay_shape == "reciprocal" and terms.floor == 0:
        raise SoftmapError(
            "decay_shape reciprocal: expected a positive floor (min_lr), found 0; "
            "linear and cosine decays can end at 0"
        )
    starts, before = [], 0
    for budget in terms.budgets:
        base = budget if terms.decay_of == "so_far" else budget - before
        start = budget - max(1, round(terms.decay_fraction * base))
        free_from = max(before, terms.warmup)
        if start <= free_from:
            raise SoftmapError(
                f"budget {budget}: expected its decay to leave a step at the peak after step "
                f"{free_from} (warm-up or the budget before), found a decay from step {start}"
            )
        starts.append(start)
        before = budget
    return tuple(starts)


def wsd(step: int, terms: Terms, budget: int = -1) -> float:
    """Returns the rate of warm-up, constant phase and one decay, that of budget ``budget`` (an
    index).

    Before its branch point, ``decay_starts(terms)[budget]``, this is the undecayed trunk that all
    budgets share. Decays are as long as those of ``wsd_s``, so that the two differ only in the
    weights that training continues from.
    """
    end = terms.budgets[budget]
    _check_step(step, end)
    start = decay_starts(terms)[budget]
    return _rate(step, terms, start - 1, end, terms.decay_shape)


def wsd_s(step: int, terms: Terms) -> float:
    """Returns the rate of one chain: a decay to the floor at each budget, then the peak again at
    once.
    """
    cycle = _cycle(step, terms)
    start = decay_starts(terms)[cycle]
    return _rate(step, terms, start - 1, terms.budgets[cycle], terms.decay_shape)


def cosine(step: int, terms: Terms) -> float:
    """Returns the rate of warm-up, then half a cosine down to the floor at the last budget."""
    _check_step(step, terms.budgets[-1])
    return _rate(step, terms, max(0, terms.warmup - 1), terms.budgets[-1], "cosine")


def cyclic_cosine(step: int, terms: Terms) -> float:
    """Returns the rate of half a cosine in each cycle; later cycles start at the peak again."""
    cycle = _cycle(step, terms)
    before = terms.budgets[cycle - 1] if cycle else 0
    return _rate(step, terms, max(before, terms.warmup - 1), terms.budgets[cycle], "cosine")


def cosine_oracle(terms: Terms) -> list[Terms]:
    """Returns the terms of one whole ``cosine`` run per budget, the shortest first."""
    return [replace(terms, budgets=(budget,)) for budget in terms.budgets]


def _rate(step: int, terms: Terms, last_peak: int, end: int, shape: DecayShape) -> float:
    """Returns the rate of warm-up, the peak up to ``last_peak``, then a descent to step ``end -
    1``.
    """
    if step < terms.warmup:
        return terms.peak * (step + 1) / terms.warmup
    if step >= end - 1:
        return terms.floor
    return descend((step - last_peak) / (end - 1 - last_peak), terms.peak, terms.floor, shape)


def _cycle(step: int, terms: Terms) -> int:
    _check_step(step, terms.budgets[-1])
    return next(i for i, budget in enumerate(terms.budgets) if step < budget)


def _check_step(step: int, end: int) -> None:
    if not 0 <= step < end:
        raise SoftmapError(f"step: expected 0 to {end - 1}, found {step}")
