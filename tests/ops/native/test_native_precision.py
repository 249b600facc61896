"""Low precision loses little more than a plain map does, and finite numbers stay finite."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from native_cases import Case, Results, results, spoil

from softmap.ops import native, reference
from softmap.ops.call import Call
from softmap.ops.precision import FEW, GRADIENT, OUTPUT
from softmap.ops.yardstick import ZERO, eager

VARIANTS = [
    "forget+softcap(cap=2)",
    "dcmha(static=true)",
    "talking-heads",
    "diff",
    "diff2",
    "sas",
    "diff2+sas",
    "temperature+alibi",
    "kerple",
    "fire",
    "dape(kernel=5)",
    "dape(bias=fire)",
    "dape(bias=none)",
]


def wide(call: Call) -> Call:
    return call.unflatten([t.double() for t in call.flatten()[1]])


def errors(got: Results, truth: Results) -> dict[str, list[float]]:
    """Relative errors; those of results of few numbers are judged together."""
    found: dict[str, list[float]] = {}
    for name, want in truth.items():
        group = name if want.numel() >= FEW else "few numbers"
        if want.norm() > ZERO:
            off = float((got[name].double() - want).norm() / want.norm())
            found.setdefault(group, []).append(off)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_errors_against_float64(variant: str, dtype: torch.dtype) -> None:
    ours: dict[str, list[float]] = {}
    plain: dict[str, list[float]] = {}
    for seed in range(5):
        call = Case(variant, tokens=65).call(dtype, seed)
        truth = results(reference.run, wide(call))
        spoil(call)
        for found, run in ((ours, native.run), (plain, eager)):
            for name, off in errors(results(run, call), truth).items():
                found.setdefault(name, []).extend(off)
    for name, off in ours.items():
        times = OUTPUT if name == "output" else GRADIENT
        allowed = times * max(median(plain[name]), torch.finfo(dtype).eps)
        assert median(off) <= allowed, f"{name}: {median(off):.1e}, more than {allowed:.1e}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "diff", "dape"])
def test_a_cache_with_room_behind_it(variant: str, dtype: torch.dtype) -> None:
    """Few queries of keys and values that lie as a cache keeps them: read in place."""
    call = Case(variant, tokens=300, queries=3).call(dtype)
    with_room = [
        torch.cat([t, torch.full_like(t, torch.nan)], 2)[:, :, :300] for t in (call.k, call.v)
    ]
    q, _, _, *others = call.flatten()[1]
    got, want = native.run(call.unflatten([q, *with_room, *others])), reference.run(wide(call))
    allowed = OUTPUT * max(
        (eager(call).double() - want).norm(), 8 * torch.finfo(dtype).eps * want.norm()
    )
    assert (got.double() - want).norm() <= allowed


@pytest.mark.parametrize("size", [10.0, 30.0, 1000.0])
@pytest.mark.parametrize("variant", ["dcmha", "diff", "alibi"])
def test_large_scores(variant: str, size: float) -> None:
    """Rows that are nearly one-hot, scores of hundreds to a million: the plain map's precision."""
    call = Case(variant, tokens=140, batch=1).call(torch.float32)
    call = call.unflatten([call.q * size, call.k * size, *call.flatten()[1][2:]])
    truth, ours = results(reference.run, wide(call)), results(native.run, call)
    assert all(t.isfinite().all() for t in ours.values())
    plain = errors(results(eager, call), truth)
    for name, off in errors(ours, truth).items():
        if name != "few numbers":  # one alone is at times right by luck
            assert max(off) <= 8 * max(*plain[name], torch.finfo(torch.float32).eps), name
