"""Any arguments of ``softmap.attention``: a result of the right shape that is the reference's, or
the promised error in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmap
from softmap.errors import SoftmapError
from softmap.maps import Tensors
from softmap.ops import memory
from softmap.variants import build, load

VARIANTS = ("transformer++", "diff2", "dape", "dcmha(static=true)", "sas", "kerple", "gated",
            "fire", "talking-heads")  # fmt: skip
IMPLS = ("auto", "native", "folded", "chunked", "reference")
ODD: list[Any] = [
    None, True, 0, -1, 1, 3, 2**70, -(2**70), 10**400, 0.5, 1e300, math.inf, math.nan, "x", "",
    b"y", [], (), {}, object(), torch.float32, [1, 2], torch.zeros(()), torch.ones(2, 7),
    torch.ones(2, 7, dtype=torch.bool), torch.arange(7)[None], torch.arange(14).view(2, 7),
    torch.arange(7).flip(0)[None], torch.ones(2, 7).to_sparse(), torch.ones(2, 7, device="meta"),
    torch.ones(2, 7, dtype=torch.complex64), torch.ones(2, 7, dtype=torch.float8_e5m2),
    torch.zeros(2, 7, 16), torch.full((2, 7, 16), math.nan), torch.zeros(2, 7, 5),
    torch.zeros(2, 7, 16).half(), torch.zeros(2, 7, 16, device="meta"), torch.zeros(0),
    torch.ones(2, 7).numpy(), (torch.zeros(2, 4, 4), torch.ones(2, 1)), Tensors({}, {}, {}),
    [Tensors({}, {}, {})] * 2, (torch.zeros(2, 4, 4), 3), torch.ones(2, 7, dtype=torch.int64),
    torch.quantize_per_tensor(torch.ones(2, 7), 0.1, 0, torch.quint8),
]  # fmt: skip
NAMES = ("x", "tensors", "window", "scale", "key_mask", "documents", "rows", "cols", "running",
         "causal", "key_x")  # fmt: skip
CHANGES: dict[str, Any] = {
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "complex": lambda t: t.to(torch.complex64),
    "half": lambda t: t.half(),
    "double": lambda t: t.double(),
    "integers": lambda t: t.long(),
    "quantised": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.quint8),
    "numpy": lambda t: t.numpy(),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
    "jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "flat": lambda t: t[0],
    "no width": lambda t: t[..., :0],
    "no tokens": lambda t: t[:, :, :0],
    "fewer": lambda t: t[:, :, 1:],
    "no batch": lambda t: t[:0],
    "one batch": lambda t: t[:1],
    "heads": lambda t: t[:, :2],
    "no heads": lambda t: t[:, :0],
    "strided": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "shared": lambda t: t[:1].expand(2, -1, -1, -1),
    "huge": lambda t: t * 1e30,
    "nan": lambda t: t * math.nan,
}
Draw = Any


def _changed(draw: Draw, t: torch.Tensor) -> Any:
    return CHANGES[draw(st.sampled_from(sorted(CHANGES)))](t)


def _tensors(draw: Draw, chain: list, x: torch.Tensor) -> Any:
    """Those of the edits, one of them changed."""
    groups = [e(x) for e in chain]
    groups = [Tensors(*({n: t.detach() for n, t in d.items()} for d in g)) for g in groups]
    owned = [d for g in groups for d in g if d]
    if owned and draw(st.booleans()):
        d = draw(st.sampled_from(owned))
        name = draw(st.sampled_from(sorted(d)))
        how = draw(st.sampled_from(["gone", "meta", "short", "odd", "more", "sparse", "long"]))
        t = d[name]
        if how == "gone":
            del d[name]
        elif how == "more":
            d["other"] = t
        else:
            ways = {"meta": lambda: t.to("meta"), "short": lambda: t.flatten()[:-1],
                    "odd": lambda: draw(st.sampled_from(ODD)), "sparse": lambda: t.to_sparse(),
                    "long": lambda: t.long()}  # fmt: skip
            d[name] = ways[how]()
    return groups


def _call(draw: Draw) -> tuple[tuple, dict[str, Any]]:
    torch.manual_seed(0)
    chain: Any = build(load(draw(st.sampled_from(VARIANTS))).parts, 4, 16, 4, 16, 0, 1)
    x = torch.randn(2, 7, 16)
    q, k, v = torch.randn(3, 2, 4, 7, 4)
    given: dict[str, Any] = {"x": x, "impl": draw(st.sampled_from(IMPLS))}
    if draw(st.booleans()):
        q = q[:, :, draw(st.sampled_from([0, 3, 6])) :]
    elif draw(st.integers(0, 3)) == 0:
        given["causal"] = False
    if q.shape[2] == 7 and draw(st.booleans()):
        given["tensors"] = _tensors(draw, chain, x)
    args = [q, k, v, chain]
    kind = draw(st.sampled_from(["plain", "one", "all", "edits", "impl", "option", "options"]))
    if kind == "one":
        n = draw(st.integers(0, 2))
        args[n] = _changed(draw, args[n])
    elif kind == "all":
        name = draw(st.sampled_from(sorted(CHANGES)))
        args[:3] = [CHANGES[name](t) for t in args[:3]]
    elif kind in ("edits", "impl"):
        odd = draw(st.sampled_from(ODD))
        args[3], given["impl"] = (odd, "auto") if kind == "edits" else (chain, odd)
    for _ in range({"option": 1, "options": 2}.get(kind, 0)):
        given[draw(st.sampled_from(NAMES))] = draw(st.sampled_from(ODD))
    return tuple(args), given


def _judge(args: tuple, given: dict[str, Any]) -> None:
    try:
        got = softmap.attention(*args, **given)
    except SoftmapError as error:
        assert "\n" not in str(error) and len(str(error)) > 10, error
        return
    except (RuntimeError, MemoryError) as error:
        assert memory.is_out_of_memory(error), error
        return
    q, _, v = args[:3]
    assert got.shape[::2] == q.shape[::2] and got.shape[3] == v.shape[3] and got.dtype == q.dtype
    if got.device.type == "meta":
        return
    want = softmap.attention(*args, **given | {"impl": "reference"})
    mask = given.get("key_mask")
    if mask is not None:  # rows of padding are undefined
        real = mask.bool()[:, -q.shape[2] :, None]
        got, want = (t.transpose(1, 2).flatten(2).masked_fill(~real, 0) for t in (got, want))
    ok = want.isfinite() & (want.abs() < 1e4)  # where it overflows, other sums overflow elsewhere
    tolerance = 2e-2 if got.dtype == torch.float16 else 1e-4
    torch.testing.assert_close(got[ok], want[ok], atol=tolerance, rtol=tolerance)
    overflows = any((t.abs() > 1e15).any() for t in args[:3])  # finite scores need not exist then
    if q.dtype == torch.float32 and not overflows and not (want.abs() > 1e4).any():
        assert torch.equal(got.isnan(), want.isnan())


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True, database=None,
          suppress_health_check=list(HealthCheck))  # fmt: skip
def test_result_or_one_line(data: st.DataObject) -> None:
    _judge(*_call(data.draw))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=4000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_result_or_one_line_at_length(data: st.DataObject) -> None:
    _judge(*_call(data.draw))
