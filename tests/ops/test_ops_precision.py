"""The measure of precision: what the plain map loses, and what is too much."""

from __future__ import annotations

import math

import pytest
import torch

from softmap.ops import make_call, precision, yardstick
from softmap.ops.precision import Errors


def test_the_plain_map_rounds_its_scores() -> None:
    """2049 is 2048 in float16 and 2050 is 2048 in bfloat16: rows that see equal scores."""
    for dtype, more in ((torch.float16, 1.0), (torch.bfloat16, 2.0)):
        q = torch.ones(1, 1, 2, 2, dtype=dtype)
        k = torch.tensor([[[[2048.0, 0.0], [2048.0, more]]]], dtype=dtype)
        v = torch.tensor([[[[0.0], [1.0]]]], dtype=dtype)
        out = yardstick.eager(make_call(q, k, v, scale=1.0))
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
    few = [{"a": Errors(n, 1.0, 1.0, 1), "b": Errors(10 * n, 3.0, 1.0, 1)} for n in (1.0, 2.0, 3.0)]
    assert precision.medians(few) == {precision.POOLED: Errors(6.5, 2.0)}
    broken = [*few, {"a": Errors(math.nan, 1.0, 1.0, 1)}]
    assert precision.medians(broken)[precision.POOLED].ours == math.inf
    large = [{"q": Errors(n, 1.0, 1.0, 64)} for n in (1.0, 2.0, 9.0)]
    assert precision.medians(large) == {"q": Errors(2.0, 1.0)} and not precision.alone(large)


def test_one_wrong_result_of_few_numbers_does_not_hide_among_others() -> None:
    """Of three, the median sees none; alone, all draws together: off by 3 of 5."""
    names = ("a", "b", "c")
    draws = [{n: Errors(1e-3, 1e-3, size, 2) for n in names} for size in (3.0, 4.0)]
    draws[0]["c"] = Errors(1.0, 1e-3, 3.0, 2)
    draws[1]["c"] = Errors(0.0, 0.0, 4.0, 2)
    assert precision.fault(precision.medians(draws), torch.bfloat16) is None
    found = precision.alone(draws)
    assert found["a"].ours == pytest.approx(1e-3)
    assert found["c"].ours == pytest.approx(0.6) and found["c"].plain == pytest.approx(
        1e-3 * math.sqrt((3 * 9 + 2 * 16) / (3 * 25))  # of all results, more than its own 6e-4
    )
    why = precision.fault(found, torch.bfloat16)
    assert why is not None and why.startswith("c in torch.bfloat16: error 6.0e-01")


def test_errors_see_the_one_gradient_that_is_missing() -> None:
    torch.manual_seed(0)
    call = make_call(*(torch.randn(1, 2, 9, 8) for _ in range(3)))
    found = yardstick.errors(yardstick.eager, call)
    assert precision.fault(precision.medians([found]), torch.float32) is None

    def cut(call):  # type: ignore[no-untyped-def]
        return yardstick.eager(call.unflatten([call.q, call.k.detach(), call.v]))

    why = precision.fault(precision.medians([yardstick.errors(cut, call)]), torch.float32)
    assert why is not None and why.startswith("gradient of k in torch.float32: not finite")
