"""The loss as a surface over a model's weights: its value anywhere, and its sharpest directions.

Weights are one vector w of all parameters. The curvature is the Hessian H of the loss at w, used
through products H v (Pearlmutter 1994) alone; ARPACK's Lanczos iteration turns them into the
largest eigenvalues and their directions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

TOLERANCE = 1e-2  #: relative tolerance of eigenvalues


class Surface:
    """A model's parameters as one vector, which can be moved anywhere within [`moved`][]."""

    def __init__(self, model: nn.Module) -> None:
        self.parameters = list(model.parameters())
        self.size = sum(p.numel() for p in self.parameters)

    @property
    def here(self) -> Tensor:
        """A copy of the present parameters."""
        return torch.cat([p.detach().float().flatten() for p in self.parameters])

    def go(self, place: Tensor) -> None:
        """Set the model's parameters to ``place`` (size,)."""
        with torch.no_grad():
            parts = place.split([p.numel() for p in self.parameters])
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))

    @contextlib.contextmanager
    def moved(self) -> Iterator[None]:
        """Restore the parameters after the block."""
        before = self.here
        try:
            yield
        finally:
            self.go(before)

    def sharpest(
        self, loss: Callable[[], Tensor], count: int, seed: int = 0
    ) -> tuple[np.ndarray, Tensor]:
        """Returns the ``count`` largest eigenvalues of the Hessian of ``loss()``, and their
        directions.

        The Hessian is that at the present parameters. Eigenvalues (count,) come in descending
        order, directions (count, size) have length 1.
        """
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # MATH has second derivatives
            grads = torch.autograd.grad(loss(), self.parameters, create_graph=True)
            gradient = torch.cat([g.flatten() for g in grads])

            def product(v: np.ndarray) -> np.ndarray:
                direction = torch.as_tensor(v.ravel(), dtype=gradient.dtype)
                found = torch.autograd.grad(
                    gradient, self.parameters, direction.to(gradient.device), retain_graph=True,
                    materialize_grads=True,
                )  # fmt: skip
                return torch.cat([g.flatten() for g in found]).double().cpu().numpy()

            operator = LinearOperator((self.size, self.size), matvec=product, dtype=np.float64)
            start = np.random.default_rng(seed).normal(size=self.size)
            if not product(start).any():  # the Hessian is zero, which ARPACK cannot handle
                return np.zeros(count), torch.eye(count, self.size, device=gradient.device)
            values, vectors = eigsh(operator, count, which="LA", v0=start, tol=TOLERANCE)
        largest = np.argsort(values)[::-1]
        directions = torch.as_tensor(vectors[:, largest].T.copy(), dtype=torch.float32)
        return values[largest], directions.to(gradient.device)


def between(one: Any, other: Any, share: float) -> Any:
    """Returns the point, or the loss, ``share`` of the way from ``one`` to ``other``."""
    return (1 - share) * one + share * other


def along_and_across(step: Tensor, direction: Tensor) -> tuple[float, float]:
    """Returns a step's part along ``direction``, and the length of the rest, both over its
    length.
    """
    length = direction.norm()
    along = float(step @ direction / length**2)
    return along, float((step - along * direction).norm() / length)


def share_within(step: Tensor, directions: Tensor) -> float:
    """Returns the share of a step's squared length within orthonormal ``directions`` (k, size)."""
    return float((directions @ step).square().sum() / step.square().sum().clamp_min(1e-30))
