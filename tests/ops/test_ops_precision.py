"""The measure of precision: what the plain map loses, and what is too much."""

from __future__ import annotations

import math

import pytest
import torch

from softmap.ops import make_call, precision
from softmap.ops.precision import Errors


def test_the_plain_map_rounds_its_scores() -> None:
    """2049 is 2048 in float16 and 2050 is 2048 in bfloat16: rows that see equal scores."""
    for dtype, more in ((torch.float16, 1.0), (torch.bfloat16, 2.0)):
        q = torch.ones(1, 1, 2, 2, dtype=dtype)
        k = torch.tensor([[[[2048.0, 0.0], [2048.0, more]]]], dtype=dtype)
        v = torch.tensor([[[[0.0], [1.0]]]], dtype=dtype)
        out = precision.eager(make_call(q, k, v, scale=1.0))
        assert out.flatten().tolist() == [0.0, 0.5] and out.dtype == dtype


@pytest.mark.parametrize(
    ("name", "ours", "plain", "wrong"),
    [
        ("output", 1.9e-2, 1e-2, False),
        ("output", 2.1e-2, 1e-2, True),
        ("gradient of q", 2.9e-2, 1e-2, False),
        ("gradient of q", 3.1e-2, 1e-2, True),
        ("output", 2**-8, 0.0, False),  # bfloat16's own rounding is allowed, twice
        ("output", 2**-6, 0.0, True),
        ("output", math.inf, 1e-2, True),
    ],
)
def test_twice_and_three_times(name: str, ours: float, plain: float, wrong: bool) -> None:
    found = precision.fault({name: Errors(ours, plain)}, torch.bfloat16)
    assert (found is not None) == wrong
    assert found is None or found.startswith(f"{name} in torch.bfloat16: ")


def test_medians_over_draws_and_results_of_few_numbers() -> None:
    draws = [{"few": [Errors(n, 1.0), Errors(10.0 * n, 3.0)]} for n in (1.0, 2.0, 3.0)]
    assert precision.medians(draws) == {"few": Errors(6.5, 2.0)}
    broken = [*draws, {"few": [Errors(math.nan, 1.0)]}]
    assert precision.medians(broken)["few"].ours == math.inf


def test_errors_see_the_one_gradient_that_is_missing() -> None:
    torch.manual_seed(0)
    call = make_call(*(torch.randn(1, 2, 9, 8) for _ in range(3)))
    found = precision.errors(precision.eager, call)
    assert precision.fault(precision.medians([found]), torch.float32) is None

    def cut(call):  # type: ignore[no-untyped-def]
        return precision.eager(call.unflatten([call.q, call.k.detach(), call.v]))

    why = precision.fault(precision.medians([precision.errors(cut, call)]), torch.float32)
    assert why is not None and why.startswith("gradient of k in torch.float32: not finite")
