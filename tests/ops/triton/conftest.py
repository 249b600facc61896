"""Kernels on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

# For tests of the tools that compile, count and tune.
sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        from triton.runtime.interpreter import InterpreterBuilder

        monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)


def dot(_: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
    """``d + a b``, channel by channel, as a GPU adds them up: (b^T a^T)^T has the bits of a b.

    The interpreter's own product is NumPy's, whose sums are formed in another order when operands
    change places, on some processors (OpenBLAS for AVX2). The kernel ``keys`` computes k q^T where
    the others compute q k^T, and a row's saved sum belongs to its rounded scores: dv was then ten
    times as far off.
    """
    from triton.runtime.interpreter import TensorHandle

    total = d.data
    left, right = a.data.astype(total.dtype), b.data.astype(total.dtype)
    for n in range(left.shape[-1]):
        total = total + left[..., :, n, None] * right[..., n, None, :]
    return TensorHandle(total, d.dtype.scalar)


@pytest.fixture
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
