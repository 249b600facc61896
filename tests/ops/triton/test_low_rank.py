"""Compositions of low rank through matrix products, against the dense reference in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from triton_cases import Case, off, results, truth

from softmap.ops import triton
from softmap.ops.precision import GRADIENT, OUTPUT
from softmap.ops.yardstick import eager

EXACT = 2e-5


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Any width, tiles of 16 x 16 and blocks of few rows, so that short sequences have several."""
    from softmap.ops.triton import low_rank_launch, low_rank_maps
    from softmap.ops.triton.configs import override

    monkeypatch.setattr(low_rank_launch, "MOST_CHANNELS", 0)
    monkeypatch.setattr(low_rank_launch, "MAP_BYTES", 1)
    monkeypatch.setattr(low_rank_launch, "LEAST_ROWS", 1)
    monkeypatch.setattr(low_rank_maps, "TILE", 16)
    with override(16, 16):
        yield


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of blocks of each call that came this way, forward and backward."""
    from softmap.ops.triton.low_rank_launch import LowRank

    found, blocks = [], LowRank.blocks

    def counted(self: Any) -> Any:
        found.append(len(blocks(self)))
        return blocks(self)

    monkeypatch.setattr(LowRank, "blocks", counted)
    return found


FAST = [
    Case("dcmha", heads=2, kv_heads=1, batch=1, left=2, tokens=17),
    Case("dcmha(pre=false)", heads=2, batch=1, tokens=17, window=5),
]
SLOW = [
    Case("dcmha(gates=false)", heads=3, head_dim=5, tokens=17, batch=1),
    Case("dcmha(rank=1,query=false)", heads=2, batch=1, tokens=17),
    Case("dcmha(key=false)", heads=4, kv_heads=2, batch=1, left=3),
    Case("dcmha(low_rank=false)", heads=2, tokens=17),
    Case("dcmha(post=false)", heads=4, kv_heads=1, batch=1, tokens=17),
    Case("dcmha", heads=4, kv_heads=2, tokens=37, window=9, batch=1),
    Case("dcmha", heads=2, documents=True, tokens=37),
    Case("dcmha", heads=2, left=5),
    Case("dcmha", heads=2, tokens=65, batch=1, documents=True, window=17),
]


@pytest.mark.parametrize(
    "case", [*FAST, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)], ids=str
)
def test_every_gradient(case: Case, device: str, taken: list[int]) -> None:
    call = case.call(torch.float32, device)
    ours, want = results(triton.run, call), truth(call)
    assert len(taken) == 2 and min(taken) == (case.tokens + 15) // 16
    assert ours.keys() == want.keys()
    for name in want:
        assert off(ours[name], want[name]) < EXACT, name


@pytest.mark.slow
def test_half_precision(device: str, taken: list[int]) -> None:
    call = Case("dcmha", heads=2, head_dim=16, tokens=40, batch=1).call(torch.float16, device)
    ours, plain, want = results(triton.run, call), results(eager, call), truth(call)
    assert taken
    for name in want:
        times = OUTPUT if name == "output" else GRADIENT
        assert off(ours[name], want[name]) <= times * max(off(plain[name], want[name]), 2**-11), (
            name
        )


@pytest.mark.parametrize(
    "case",
    [
        Case("dcmha(static=true)"), Case("dcmha(rank=3)"), Case("dcmha+alibi"), Case("dcmha+diff"),
        Case("dcmha", queries=3), Case("talking-heads"), Case("dcmha", tokens=1), Case("fire"),
        Case("talking-heads+fire"), Case("dcmha(low_rank=false)+kerple"),
    ],
    ids=str,
)  # fmt: skip
def test_other_calls_take_the_template(case: Case, device: str) -> None:
    from softmap.ops.triton.low_rank_launch import takes
    from softmap.ops.triton.plan import loads, spec_of, tensors_of_call

    call = case.call(torch.float32, device)
    spec = spec_of(call)
    assert not takes(loads(spec.dumps()), tensors_of_call(call, spec))


def test_gradients_lie_as_the_fake_operator_says(device: str) -> None:
    """Contiguous, whatever the strides of the inputs, for a compiler relies on it."""
    from softmap.ops.triton.operator import implementation
    from softmap.ops.triton.plan import FIXED, spec_of, tensors_of_call

    call = Case("dcmha", heads=2, head_dim=4, tokens=5, batch=1).call(torch.float32, device)
    spec = spec_of(call)
    flat = tensors_of_call(call, spec)
    flat[:3] = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in flat[:3]]
    forward, backward = implementation(spec, flat)
    o, lse = forward(flat, spec)
    needs = [n != 1 and (n < 3 or n >= len(FIXED)) for n in range(len(flat))]
    found = backward(o, o, lse, flat, spec, needs)
    assert len(found) == sum(needs)
    wanted = [t for t, need in zip(flat, needs, strict=True) if need]
    for t, like in zip(found, wanted, strict=True):
        assert t.is_contiguous() and t.shape == like.shape and t.dtype == like.dtype
    assert o.is_contiguous()


def test_sizes_that_would_read_beyond_the_maps_are_refused(device: str) -> None:
    from softmap.errors import SoftmapError
    from softmap.ops.triton.configs import override
    from softmap.ops.triton.low_rank_launch import forward
    from softmap.ops.triton.plan import spec_of, tensors_of_call

    call = Case("dcmha", heads=2, head_dim=4, tokens=5, batch=1).call(torch.float32, device)
    spec = spec_of(call)
    with override(16, 32, kernel="rows"), pytest.raises(SoftmapError, match="rows must divide 16"):
        forward(tensors_of_call(call, spec), spec)


def test_narrow_calls_take_the_template(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from softmap.ops.triton import low_rank_launch
    from softmap.ops.triton.plan import spec_of, tensors_of_call

    call = Case("dcmha", heads=4, head_dim=8).call(torch.float32, device)
    spec = spec_of(call)
    flat = tensors_of_call(call, spec)
    assert low_rank_launch.takes(spec, flat)
    monkeypatch.setattr(low_rank_launch, "MOST_CHANNELS", 32)
    assert not low_rank_launch.takes(spec, flat)
    monkeypatch.setattr(low_rank_launch, "MOST_CHANNELS", 31)
    assert low_rank_launch.takes(spec, flat)
    monkeypatch.setattr(low_rank_launch, "MOST_WIDTH", 7)
    assert not low_rank_launch.takes(spec, flat)


def test_memory_is_linear_in_the_length(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four times the tokens a block's maps are at most twice as large, by rounding to tiles."""
    from softmap.ops.triton import low_rank_launch
    from softmap.ops.triton.plan import spec_of, tensors_of_call

    monkeypatch.setattr(low_rank_launch, "MAP_BYTES", 64 * 64 * 2 * 4)
    most = []
    for tokens in (64, 256):
        call = Case("dcmha", heads=2, batch=1, tokens=tokens).call(torch.float32, device)
        spec = spec_of(call)
        blocks = low_rank_launch.LowRank(tensors_of_call(call, spec), spec).blocks()
        assert blocks[0].top == 0 and blocks[-1].end == tokens
        assert all(a.end == b.top for a, b in pairwise(blocks))
        most.append(max((b.end - b.top) * (b.end - b.first) for b in blocks))
    assert most[1] <= most[0] * 2


def test_blocks_follow_the_window(device: str) -> None:
    """They hold the keys that their rows see and few others, and begin at whole tiles."""
    from softmap.ops.triton import low_rank_launch
    from softmap.ops.triton.plan import spec_of, tensors_of_call

    call = Case("dcmha", heads=2, batch=1, tokens=250, window=33).call(torch.float32, device)
    spec = spec_of(call)
    blocks = low_rank_launch.LowRank(tensors_of_call(call, spec), spec).blocks()
    assert [b.top for b in blocks] == list(range(0, 250, 16)) and blocks[-1].end == 250
    for b in blocks:
        assert b.first % 16 == 0 and max(0, b.top - 32) - 16 < b.first <= max(0, b.top - 32)
