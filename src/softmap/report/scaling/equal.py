"""What two laws say of costs at equal loss: ratios of the variant's to the control's, and the
public yardstick Sc.

The loss is that which the control's law has at N parameters and D tokens, the sweep's largest.

    parameters   n / N with L_v(n, D) = L_c(N, D)
    tokens       d / D with L_v(N, d) = L_c(N, D)
    compute      C_v / C_c, each the least FLOPs at which its law has that loss
    Sc           ((L_c - E_c) / (L_v - E_c))^(1 / alpha_c), both losses at N and D

FLOPs are f N D, with f those of a token and a parameter, counted at the largest size. With
A / N^a + B / D^b = R fixed, N D is least where A / N^a = R b / (a + b). Of the control's best
shapes L = E + K C^-alpha, so Sc is how many times the control's compute it would take along them to
reach the variant's loss. The ratios are better below 1, Sc above it. What a law never reaches is
infinite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from softmap.report.scaling.law import Law

RATIOS = ("parameters", "tokens", "compute", "Sc", "Sw")


@dataclass(frozen=True)
class ComparisonPoint:
    """The point at which laws are compared: N, D, and the variant's FLOPs per token and tokens
    per second over the control's.
    """

    parameters: float
    tokens: float
    flops: float = 1.0
    speed: float = 1.0


def ratios(control: Law, variant: Law, place: ComparisonPoint) -> dict[str, float]:
    """Returns every ratio by name. Sw is Sc times the throughput ratio over the ratio of FLOPs a
    token.
    """
    n, d = place.parameters, place.tokens
    loss = float(control.loss(n, d))
    left = loss - variant.E
    compute = _least(variant, left) / _least(control, loss - control.E)
    gain = yardstick(control, float(variant.loss(n, d)), loss) / place.flops
    return {
        "parameters": _reached(variant.A, variant.a, left - variant.B * d**-variant.b) / n,
        "tokens": _reached(variant.B, variant.b, left - variant.A * n**-variant.a) / d,
        "compute": place.flops * compute,
        "Sc": gain,
        "Sw": gain * place.flops * place.speed,
    }


def yardstick(control: Law, mine: float, theirs: float) -> float:
    """Returns how many times the control's compute reaches the loss ``mine`` instead of
    ``theirs``.
    """
    if mine <= control.E:
        return np.inf
    return float(((theirs - control.E) / (mine - control.E)) ** (1 / control.alpha))


def _reached(scale: float, exponent: float, left: float) -> float:
    """Returns x with scale / x^exponent = left."""
    with np.errstate(over="ignore", divide="ignore"):
        return float(np.power(scale / left, 1 / exponent)) if left > 0 else np.inf


def best_shape(law: Law, left: float) -> tuple[float, float]:
    """Returns (N, D) of the least N D at which the law is ``left`` above its floor."""
    share = law.b / (law.a + law.b)
    return _reached(law.A, law.a, left * share), _reached(law.B, law.b, left * (1 - share))


def _least(law: Law, left: float) -> float:
    n, d = best_shape(law, left)
    return n * d
