"""The kernels against the dense reference in float64: outputs and every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from triton_cases import Case, off, results, sampled, truth

from softmap.ops import reference, triton
from softmap.ops.precision import GRADIENT, OUTPUT
from softmap.ops.yardstick import eager

# Float32 sums in another order, through an exponential.
EXACT = 2e-5


@pytest.fixture(autouse=True)
def _small_tiles() -> Iterator[None]:
    """16 x 16, so that a short sequence has several tiles."""
    from softmap.ops.triton.configs import override

    with override(16, 16):
        yield


FAST = [
    Case("kerple", heads=2, kv_heads=1, window=9, head_dim=5),
    Case("alibi", heads=1, left=4),
    Case("fire", heads=1, batch=1, tokens=17),
    Case("diff", heads=4, kv_heads=2, batch=1),
    Case("sas", heads=2, documents=True),
    Case("dcmha(static=true)", heads=4, kv_heads=2, window=9),
    Case("dcmha(rank=1,query=false)+alibi", heads=2, documents=True, batch=1),
    Case("talking-heads+diff", heads=6, head_dim=5, batch=1),
    Case("dcmha(low_rank=false)+sas", heads=2, batch=1, documents=True),
    Case("dcmha", heads=2, tokens=37, queries=3),
    Case("dcmha(rank=5,static=true)", heads=20, head_dim=4, tokens=17, batch=1),
    Case("kerple", heads=2, batch=1, tokens=37, queries=1, window=20),
]
SLOW = [
    Case("dcmha", heads=3, head_dim=20, left=5),
    Case("diff2", heads=2, kv_heads=1, batch=1),
    Case("temperature", heads=2, documents=True),
    *(Case(f"dcmha({o}=false)") for o in ("key", "gates", "pre", "post")),
    *(Case(v, tokens=1) for v in ("dcmha", "diff", "fire", "sas")),
    Case("talking-heads", heads=12, kv_heads=4, tokens=40),
    Case("talking-heads(post=false)+fire", window=5),
    Case("diff+talking-heads", kv_heads=2, left=3),
    Case("dcmha+diff2", kv_heads=2, window=11),
    Case("dcmha+temperature", documents=True, window=6),
    Case("fire", kv_heads=2, left=7, tokens=40),
    Case("diff", kv_heads=2, documents=True, window=7, tokens=40),
    Case("v-skipinit", window=3),
    Case("dcmha(static=true,rank=4)", heads=16, head_dim=16, tokens=33, batch=1),
    Case("dcmha", heads=5, head_dim=40, window=17, tokens=40),
    Case("transformer++", heads=6, kv_heads=2, tokens=64, queries=33),
]


@pytest.mark.parametrize("case", sampled(FAST), ids=str)
def test_every_gradient(case: Case, device: str) -> None:
    _check(case, device)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_every_gradient_of_more(case: Case, device: str) -> None:
    _check(case, device)


def _check(case: Case, device: str) -> None:
    """Near to float64 or, where scores are so large that float32 is not, to what that gives: the
    saved sums of rows are rounded at the size of the scores, which the dense map does not do."""
    call = case.call(torch.float32, device)
    assert triton.refuses(call) is None
    ours, want, dense = results(triton.run, call), truth(call), results(reference.run, call)
    assert ours.keys() == want.keys()
    for name, t in want.items():
        assert off(ours[name], t) < max(EXACT, 8 * off(dense[name], t)), name


HALF = [Case("diff", batch=1, tokens=17)]
HALF_SLOW = [
    Case("dcmha", batch=1, tokens=33),
    Case("talking-heads", tokens=33),
    Case("dcmha(static=true)+kerple", tokens=33),
    Case("sas", tokens=33),
    Case("fire", heads=2, tokens=33),
    Case("diff2", tokens=33, kv_heads=2),
    Case("temperature", tokens=33),
]


@pytest.mark.parametrize("case", HALF, ids=str)
def test_half_precision(case: Case, device: str) -> None:
    _check_half(case, device)


@pytest.mark.slow
@pytest.mark.parametrize("case", HALF_SLOW, ids=str)
def test_half_precision_of_more(case: Case, device: str) -> None:
    _check_half(case, device)


def _check_half(case: Case, device: str) -> None:
    """The error in float16 (and bfloat16 on a GPU) is at most twice, gradients three times, that of
    the plain map; numbers that are few are pooled, one alone may be right by luck."""
    for dtype in (torch.float16, torch.bfloat16) if device == "cuda" else (torch.float16,):
        call = case.call(dtype, device)
        ours, plain, want = results(triton.run, call), results(eager, call), truth(call)
        few: list[tuple[float, float]] = []
        for name, t in want.items():
            pair = off(ours[name], t), off(plain[name], t)
            if t.numel() < 64:
                few.append(pair)
                continue
            times = OUTPUT if name == "output" else GRADIENT
            assert pair[0] <= times * max(pair[1], torch.finfo(dtype).eps / 2), name
        if few:
            a, b = (sum(p[n] for p in few) / len(few) for n in (0, 1))
            assert a <= GRADIENT * max(b, torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize(
    ("limit", "head_dim"), [pytest.param(1, 40, marks=pytest.mark.slow), (1 << 20, 72)]
)
def test_wide_heads(
    limit: int, head_dim: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the accumulators of all heads do not fit in registers, pieces of them lie in memory."""
    from softmap.ops.triton import configs

    monkeypatch.setattr(configs, "ACCUMULATOR", dict.fromkeys(configs.ACCUMULATOR, limit))
    _check(Case("dcmha(pre=false)", heads=2, kv_heads=1, head_dim=head_dim, batch=1), device)


@pytest.mark.parametrize("variant", ["kerple", "dcmha"])
def test_keys_are_split_among_programs(
    variant: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from softmap.ops.triton import launch

    monkeypatch.setattr(launch, "LEAST_SHARE", 16)
    grids, inner = [], launch.launch

    def noted(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        grids.append(grid)
        inner(kernel, grid, *args, **options)

    monkeypatch.setattr(launch, "launch", noted)
    call = Case(variant, heads=2, tokens=70, queries=1, left=40).call(torch.float32, device)
    with torch.no_grad():
        ours = triton.run(call)
    assert off(ours, truth(call)["output"]) < EXACT
    assert grids[0][2] > 1
