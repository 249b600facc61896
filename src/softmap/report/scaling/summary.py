"""The results of a sweep as one object for JSON: laws, ratios at equal loss, and caveats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from softmap.report.answers import finite
from softmap.report.scaling.draws import DRAWS, drawn, laws
from softmap.report.scaling.equal import RATIOS, ComparisonPoint, best_shape, ratios
from softmap.report.scaling.law import Law
from softmap.report.scaling.sweep import SizeCell, Sweep

FORMAT = 1
LEVEL = 0.95  #: of the intervals, for all variants of one ratio together (Sidak)
Limits = dict[str, float | None]


def summary(sweep: Sweep, draws: int = DRAWS) -> dict[str, Any]:
    """Returns laws and ratios with their intervals, points with residuals, and caveats."""
    best = laws(sweep)
    every = list(drawn(sweep, best, draws))
    others = [label for label in sweep.cells if label != sweep.control]
    tail = (1 - LEVEL ** (1 / max(1, len(others)))) / 2
    variants = {
        label: {
            "law": _law(best[label], [one[label] for one in every]),
            "ratios": _ratios(sweep, label, best, every, tail) if label in others else None,
            "points": _points(cells, best[label]),
        }
        for label, cells in sweep.cells.items()
    }
    place = place_of(sweep, sweep.control)
    return {
        "format": FORMAT,
        "control": sweep.control,
        "runs": sweep.names,
        "at": {
            "parameters": place.parameters, "tokens": place.tokens,
            "loss": float(best[sweep.control].loss(place.parameters, place.tokens)),
        },
        "level": LEVEL,
        "draws": draws,
        "df": sweep.df,
        "left_out": sweep.left_out,
        "diverged": sweep.diverged,
        "variants": variants,
        "caveats": _caveats(sweep, best, variants),
    }  # fmt: skip


def place_of(sweep: Sweep, label: str) -> ComparisonPoint:
    """Returns the point at which a variant is compared: the control's largest size and most
    tokens there.
    """
    theirs, mine = sweep.largest(), sweep.cells[label][-1]
    each = (mine.flops / mine.parameters) / (theirs.flops / theirs.parameters)
    return ComparisonPoint(
        float(theirs.parameters), float(theirs.tokens_N[-1]), each, mine.speed / theirs.speed
    )


def _law(best: Law, every: Sequence[Law]) -> dict[str, Limits]:
    found = {}
    for name, value in {**asdict(best), "alpha": best.alpha}.items():
        low, high = np.quantile([getattr(one, name) for one in every], [0.025, 0.975])
        found[name] = {"value": value, "low": float(low), "high": float(high)}
    return found


def _ratios(
    sweep: Sweep, label: str, best: dict[str, Law], every: list[dict[str, Law]], tail: float
) -> dict[str, Limits]:
    place = place_of(sweep, label)
    control = sweep.control
    value = ratios(best[control], best[label], place)
    many = [ratios(one[control], one[label], place) for one in every]
    found = {}
    for name in RATIOS:
        ends = np.quantile([one[name] for one in many], [tail, 1 - tail], method="nearest")
        low, high = (finite(float(end)) for end in ends)
        found[name] = {"value": finite(value[name]), "low": low, "high": high}
    return found


def _points(cells: Sequence[SizeCell], law: Law) -> list[dict[str, float]]:
    found = []
    for cell in cells:
        each_RN = cell.losses_RNW.mean(axis=2)
        for tokens, losses_R in zip(cell.tokens_N, each_RN.T, strict=True):
            loss, fitted = float(losses_R.mean()), float(law.loss(cell.parameters, tokens))
            found.append({
                "parameters": cell.parameters, "tokens": float(tokens), "runs": cell.runs,
                "loss": loss, "fitted": fitted, "low": float(losses_R.min()),
                "high": float(losses_R.max()),
            })  # fmt: skip
    return found


def _caveats(sweep: Sweep, best: dict[str, Law], variants: dict[str, Any]) -> list[str]:
    """Returns sentences on what the sweep does not determine."""
    found = []
    for label, law in best.items():
        if law.at_bound:
            found.append(
                f"{label}: an exponent lies at an end of its range: the sweep does not fix its law."
            )
        if variants[label]["law"]["E"]["low"] < 1e-3:
            found.append(f"{label}: the sweep does not tell its floor E from 0.")
    place, law = place_of(sweep, sweep.control), best[sweep.control]
    n, d = best_shape(law, float(law.loss(place.parameters, place.tokens)) - law.E)
    cells = sweep.cells[sweep.control]
    if not (cells[0].parameters <= n <= cells[-1].parameters and d <= 1.5 * place.tokens):
        found.append(
            f"The best shape for the compared loss ({n:.3g} parameters, {d:.3g} tokens) lies "
            "outside of the sweep: the ratio of compute is an extrapolation."
        )
    found += [f"{label}: left out, it has too few sizes." for label in sweep.left_out]
    if sweep.diverged:
        found.append(f"{sweep.diverged} trainings diverged; they are in no mean.")
    return found
