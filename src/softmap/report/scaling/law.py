"""L(N, D) = E + A / N^a + B / D^b: loss over parameters N and training tokens D.

Fitted jointly to all sizes and budgets (Hoffmann et al. 2022, arXiv 2203.15556, their third
approach): the residuals are of log L, Huber's loss is linear beyond ``TURN`` of them, so that a
point or two that follow no law do not bend it. The problem has valleys, so it is solved from
several starts: for fixed exponents the rest is linear, and non-negative least squares gives it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from softmap.report.stats import Array

TURN = 0.01  #: residual of log L beyond which the loss is linear: about a run's own spread
EXPONENTS = (0.15, 0.35, 0.7)  #: of the starts
LEAST, MOST = 0.01, 3.0  #: exponents


@dataclass(frozen=True)
class Law:
    """E + A / N^a + B / D^b in nats; all numbers are 0 or more."""

    E: float
    A: float
    B: float
    a: float
    b: float

    def loss(self, n: Any, d: Any) -> Any:
        """Returns the loss at ``n`` parameters and ``d`` tokens; arrays are broadcast."""
        return self.E + self.A * np.power(n, -self.a) + self.B * np.power(d, -self.b)

    @property
    def alpha(self) -> float:
        """The exponent of the loss over compute, along the best shapes: ab / (a + b)."""
        return self.a * self.b / (self.a + self.b)

    @property
    def at_bound(self) -> bool:
        """Whether the points left an exponent open: it lies at an end of what was searched."""
        return any(x < 1.05 * LEAST or x > 0.98 * MOST for x in (self.a, self.b))


def fit(n_P: Array, d_P: Array, losses_P: Array, start: Law | None = None) -> Law:
    """Returns the law of P points; ``start`` is a law near it, instead of the several starts."""
    centre = (float(np.exp(np.log(n_P).mean())), float(np.exp(np.log(d_P).mean())))
    x, z = np.log(n_P / centre[0]), np.log(d_P / centre[1])
    if start is not None:
        starts = [_centred(start, centre)]
    else:
        starts = [_linear(a, b, x, z, losses_P) for a, b in product(EXPONENTS, EXPONENTS)]
    found = [_solved(theta, x, z, losses_P) for theta in starts]
    E, A, B, a, b = min(found, key=lambda one: one[0])[1]
    return Law(E, A * centre[0] ** a, B * centre[1] ** b, a, b)


def _centred(law: Law, centre: tuple[float, float]) -> Array:
    """Returns (E, A, B, a, b) with N and D relative to the points' own geometric mean, where all
    are of similar size.
    """
    E, A, B, a, b = astuple(law)
    return np.array([E, A * centre[0] ** -a, B * centre[1] ** -b, a, b])


def _linear(a: float, b: float, x: Array, z: Array, y: Array) -> Array:
    columns = np.stack([np.ones_like(x), np.exp(-a * x), np.exp(-b * z)], 1)
    return np.array([*nnls(columns, y)[0], a, b])


def _solved(theta: Array, x: Array, z: Array, y: Array) -> tuple[float, list[float]]:
    """Returns (cost, parameters) of Huber's problem from one start."""

    def predicted(t: Array) -> tuple[Array, Array, Array]:
        n, d = np.exp(-t[3] * x), np.exp(-t[4] * z)
        return t[0] + t[1] * n + t[2] * d, n, d

    def residuals(t: Array) -> Array:
        return np.asarray(np.log(predicted(t)[0] / y))

    def jacobian(t: Array) -> Array:
        whole, n, d = predicted(t)
        slopes = np.stack([np.ones_like(x), n, d, -t[1] * x * n, -t[2] * z * d], 1)
        return np.asarray(slopes / whole[:, None])

    low, high = [0, 1e-9, 1e-9, LEAST, LEAST], [np.inf, np.inf, np.inf, MOST, MOST]
    theta = np.clip(theta, np.array(low) + 1e-6, np.array(high) - 1e-6)
    found = least_squares(
        residuals, theta, jacobian, bounds=(low, high), loss="huber", f_scale=TURN, max_nfev=300
    )
    return float(found.cost), [float(value) for value in found.x]
