"""The score convolution's kernels against the dense reference in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_cases import Case, off, results, sampled, truth

from softmap.ops import triton
from softmap.ops.call import Call
from softmap.ops.precision import GRADIENT, OUTPUT
from softmap.ops.yardstick import eager, only

# Float32 sums in another order, through an exponential.
EXACT = 2e-5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tiles of 16 x 16, bands of 16 rows of one sequence: a short input has several of each."""
    from softmap.ops.triton import score_conv_launch
    from softmap.ops.triton.score_conv_plan import tiles

    monkeypatch.setattr(score_conv_launch, "BAND_BYTES", 1)
    monkeypatch.setattr(score_conv_launch, "LEAST_ROWS", 16)
    with tiles(16, 16):
        yield


FAST = [
    Case("dape(hidden=5)", heads=3, left=4),
    Case("dape(bias=alibi,hidden=4)", heads=2, window=7, batch=1),
    Case("dape(bias=none,kernel=5,hidden=4)", heads=2, kv_heads=1, head_dim=5, documents=True),
    Case("dape(version=1,hidden=4)", heads=2, tokens=33, batch=1),
    Case("dape(hidden=4)+gated", heads=2, tokens=37, queries=3, batch=1),
]
SLOW = [
    Case("dape(bias=fire,hidden=5)", heads=3, left=3),
    Case("dape(kernel=7,hidden=6)", kv_heads=2, tokens=40, window=11),
    Case("dape(bias=fire,version=1)", tokens=33, documents=True),
    Case("dape(bias=rope)", heads=6, kv_heads=2, tokens=35),
    Case("dape(bias=alibi,kernel=5)", heads=2, tokens=1),
    Case("dape", heads=16, head_dim=20, tokens=20, batch=1),
    Case("dape(bias=alibi)", heads=5, kv_heads=1, tokens=40, left=9, window=13),
]


@pytest.mark.parametrize("case", sampled(FAST), ids=str)
def test_every_gradient(case: Case, device: str) -> None:
    _check(case.call(torch.float32, device))


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW, ids=str)
def test_every_gradient_of_more(case: Case, device: str) -> None:
    _check(case.call(torch.float32, device))


@pytest.mark.parametrize(
    ("variant", "heads"),
    [("dape(hidden=4)", 4), ("dape(bias=fire)", 7)],
)
@pytest.mark.slow
def test_heads_in_several_groups(variant: str, heads: int, device: str) -> None:
    from softmap.ops.triton.score_conv_plan import tiles

    with tiles(16, 16, group=16 if device == "cuda" else 2):
        case = Case(variant, heads=17 if device == "cuda" else heads, tokens=20, batch=1, window=9)
        _check(case.call(torch.float32, device))


def test_fire_learns_its_length(device: str) -> None:
    """Rows on both sides of the length, and one at it: torch gives that one half a gradient."""
    call = Case("dape(bias=fire,hidden=2)", heads=1, batch=1).call(torch.float32, device)
    t = call.tensors[0]
    length = torch.full_like(t.layer["bias.length"], 11.0)
    call = replace(call, tensors=[t._replace(layer=t.layer | {"bias.length": length})])
    place = [id(x) for x in call.flatten()[1]].index(id(length))
    assert _check(call)[f"{place} layer"].abs() > 1e-6


def _check(call: Call) -> dict[str, Tensor]:
    assert triton.refuses(call) is None
    call = only(call, lambda edit: edit.stage != "output")  # those are left to ``attention``
    ours, want = results(triton.run, call), truth(call)
    assert ours.keys() == want.keys()
    for name, t in want.items():
        assert off(ours[name], t) < EXACT, name
    return want


HALF = [Case("dape(hidden=4)", heads=2, tokens=33, batch=1)]
HALF_SLOW = [
    Case("dape(kernel=5)", tokens=33, window=9),
    Case("dape(bias=fire)", heads=3, tokens=33),
    Case("dape(bias=alibi,version=1)", tokens=33, kv_heads=2),
    Case("dape(bias=none)", tokens=40, documents=True),
]


@pytest.mark.parametrize("case", HALF, ids=str)
def test_half_precision(case: Case, device: str) -> None:
    _check_half(case, device)


@pytest.mark.slow
@pytest.mark.parametrize("case", HALF_SLOW, ids=str)
def test_half_precision_of_more(case: Case, device: str) -> None:
    _check_half(case, device)


def _check_half(case: Case, device: str) -> None:
    """At most twice (gradients three times) the plain map's error in the same dtype; results of few
    numbers are pooled, one alone may be right by luck."""
    for dtype in (torch.float16, torch.bfloat16) if device == "cuda" else (torch.float16,):
        call = case.call(dtype, device)
        ours, plain, want = results(triton.run, call), results(eager, call), truth(call)
        want = {name: t for name, t in want.items() if t.norm() > 1e-9}  # b2: its truth is zero
        pairs = {n: (off(ours[n], t), off(plain[n], t)) for n, t in want.items()}
        few = [pairs.pop(n) for n, t in want.items() if t.numel() < 64]
        pairs["few"] = sum(a for a, _ in few), sum(b for _, b in few)
        for name, (a, b) in pairs.items():
            times = OUTPUT if name == "output" else GRADIENT
            assert a <= times * max(b, torch.finfo(dtype).eps / 2), name


def test_keys_are_split_among_programs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding: three shares of the keys, one of them all padding, and their parts put together."""
    from softmap.ops.triton import score_conv_launch as impl

    monkeypatch.setattr(impl, "LEAST_SHARE", 20)
    monkeypatch.setattr(impl, "processors", lambda _: 6)
    found: list[int] = []
    inner = impl.shares

    def noted(*args: Any) -> int:
        found.append(inner(*args))
        return found[-1]

    monkeypatch.setattr(impl, "shares", noted)
    call = Case("dape(hidden=4)", heads=2, tokens=70, queries=1, left=40).call(
        torch.float32, device
    )
    with torch.no_grad():
        ours = triton.run(call)
    assert found == [3]
    assert off(ours, truth(call)["output"]) < EXACT


@pytest.mark.slow
def test_sums_are_the_same_twice(device: str) -> None:
    call = Case("dape(hidden=4)", heads=2, batch=1, tokens=17).call(torch.float32, device)
    first, second = (results(triton.run, call) for _ in range(2))
    assert all(torch.equal(first[n], second[n]) for n in first)


def _operator(call: Call, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """The inputs of ``softmap::score_conv`` as a call hands them over, as leaves."""
    from softmap.ops.triton import score_conv_ops

    found: list[Any] = []

    def caught(*args: Any) -> tuple[Any, None]:
        found.extend(args)
        return args[0], None

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(score_conv_ops, "score_conv", caught)
        triton.run(call)
    return tuple(
        x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in found
    )


@pytest.mark.slow
def test_opcheck(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from softmap.ops.triton.score_conv_ops import score_conv

    call = Case("dape(hidden=2)", heads=2, batch=1, tokens=5).call(torch.float32, device)
    torch.library.opcheck(score_conv, _operator(call, monkeypatch))


@pytest.mark.slow
def test_the_compiler_takes_it_whole(device: str) -> None:
    call = Case("dape(hidden=2)", heads=2, batch=1, tokens=17).call(torch.float32, device)
    flat = [t.detach().requires_grad_() for t in call.flatten()[1]]

    def run(*flat: Tensor) -> Tensor:
        return triton.run(call.unflatten(flat))

    whole = torch.compile(run, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(f(*flat).square().sum(), flat) for f in (run, whole)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        ("dape(hidden=65)", "at most 64 hidden channels, found 65"),
        ("dape(kernel=9)", "at most 7 taps, found 9"),
        ("dape+diff2", "for itself alone"),
        ("dape+kerple", "for itself alone"),
    ],
)
def test_refused(variant: str, why: str, device: str) -> None:
    found = triton.refuses(Case(variant, heads=2, tokens=4).call(torch.float32, device))
    assert found is not None
    assert why in found


def test_a_sequence_beyond_32_bits_is_refused(device: str) -> None:
    call = Case("dape", heads=2, tokens=4).call(torch.float32, device)
    q, k, v = (torch.empty(2, 2, n, 1 << 10, device="meta") for n in (4, (1 << 20) + 1, 8))
    from softmap.ops.triton import score_conv

    assert "found 2147485695" in (score_conv.refuses(replace(call, q=q, k=k, v=v)) or "")


COMPILE = """
import sys, torch
sys.path.insert(0, "benchmarks")
from triton_score_conv import compile_all
for row in compile_all("dape(hidden=16)", 4, 24, torch.float16):
    print(row["kernel"], row["fits"])
"""


@pytest.mark.slow
def test_kernels_compile_for_an_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: this one may have the interpreter."""
    from triton_compiling import available

    if not available():
        pytest.skip("no ptxas or cuobjdump beside Triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    root = Path(__file__).parents[3]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    kernels = ("forward_kernel", "weights_kernel", "gradients_kernel")
    assert found.split("\n")[:-1] == [f"{name} True" for name in kernels]
