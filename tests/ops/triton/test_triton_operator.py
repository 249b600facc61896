"""The kernels as operators of torch; what is refused, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from triton_cases import Case

from softmap import attention
from softmap.errors import SoftmapError
from softmap.nn import Attention
from softmap.ops import triton


@pytest.fixture(autouse=True)
def _small_tiles() -> Iterator[None]:
    from softmap.ops.triton.configs import override

    with override(16, 16):
        yield


def _operator(case: Case, device: str) -> tuple[Any, tuple[Any, ...]]:
    from softmap.ops.triton.operator import edited_attention
    from softmap.ops.triton.plan import spec_of, tensors_of_call

    call = case.call(torch.float32, device)
    spec = spec_of(call)
    flat = [t.detach() for t in tensors_of_call(call, spec)]
    flat = [t.requires_grad_() if t.numel() and t.is_floating_point() else t for t in flat]
    return edited_attention, (flat, spec.dumps())


def test_opcheck(device: str) -> None:
    operator, args = _operator(
        Case("dcmha(rank=1,query=false)", heads=2, batch=1, tokens=3), device
    )
    torch.library.opcheck(operator, args)


@pytest.mark.slow
def test_the_compiler_takes_a_layer_whole(device: str) -> None:
    torch.manual_seed(0)
    layer = Attention(16, 2, "dcmha", head_dim=8).to(device)
    layer.impl = "triton"
    x = torch.randn(1, 17, 16, device=device, requires_grad=True)
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = [
        torch.autograd.grad(f(x).square().sum(), [x, *layer.parameters()]) for f in (layer, whole)
    ]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("case", "dtype", "why"),
    [
        (Case("transformer++"), torch.float64, "found torch.float64"),
        (Case("transformer++", heads=1, head_dim=258), torch.float32, "256 channels, found 258"),
        (Case("dcmha", heads=65, head_dim=2), torch.float32, "64 heads, found 65"),
    ],
    ids=str,
)
def test_what_is_beyond_a_limit_is_told(
    case: Case, dtype: torch.dtype, why: str, device: str
) -> None:
    assert why in (triton.refuses(case.call(dtype, device)) or "")


def test_no_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q = torch.zeros(1, 1, 2, 4)
    with pytest.raises(SoftmapError, match=r"on a GPU, found them on 'cpu'; '.*' can"):
        attention(q, q, q, impl="triton")


CODE = """
import sys, torch
from triton_compiling import compiling
from triton_cases import Case
from softmap.ops.triton.operator import implementation
from softmap.ops.triton.plan import FIXED, spec_of, tensors_of_call
heads, width = map(int, sys.argv[1].split("x"))
for variant in sys.argv[2:]:
    call = Case(variant, heads=heads, head_dim=width, batch=1).call(torch.float16, "cpu")
    spec = spec_of(call)
    flat = tensors_of_call(call, spec)
    forward, backward = implementation(spec, flat)
    with torch.no_grad(), compiling(90) as found:
        o, lse = forward(flat, spec)
        backward(o, o, lse, flat, spec, [n < 3 or n >= len(FIXED) for n in range(len(flat))])
    names, three = [row["kernel"] for row in found], ["forward", "rows", "keys"]
    if heads * width > 1024:
        assert set(names) == {*three, "sums_over_heads", "weigh", "gather"}, names
        found = [row for row in found if row["rows"]]
    else:
        assert names == three, found
    assert all(row["registers"] > 16 and 0 < row["shared"] < 227 << 10 for row in found), found
"""
# Here a stage is a chain of two edits, which compiles otherwise than it is interpreted.
CHAINS = ("dcmha(static=true)+sas+kerple", "talking-heads+diff2+fire", "diff+talking-heads+alibi")


@pytest.mark.slow
def test_compiled_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _compile(monkeypatch, "temperature+alibi")


@pytest.mark.slow
def test_chains_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    _compile(monkeypatch, "dcmha", "kerple", *CHAINS)


@pytest.mark.slow
def test_compositions_of_low_rank_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    _compile(monkeypatch, "dcmha", sizes="9x128")


def _compile(monkeypatch: pytest.MonkeyPatch, *variants: str, sizes: str = "2x16") -> None:
    """In a process of its own, whose kernels are not the interpreter's."""
    from triton_compiling import available

    if not available():
        pytest.skip("no ptxas or cuobjdump beside Triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    here = Path(__file__).parent
    folders = (here, here.parents[2] / "benchmarks")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)), prepend=os.pathsep)
    command = [sys.executable, "-c", CODE, sizes, *variants]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
