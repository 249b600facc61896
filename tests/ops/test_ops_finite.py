"""NaN, infinity and overflow: what a row does not see leaves no trace in it or in its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import Band, Edit, Tensors
from softmap.ops import attention, attention_map
from softmap.ops.call import Call
from softmap.testing import bands
from softmap.testing.compare import assert_same
from softmap.testing.subject import CheckSubject, call_of

T = 13
AT = torch.arange(T)
MASK = torch.ones(2, T, dtype=torch.bool)
MASK[0, :3] = False
# Options, the token that is spoilt, and the rows of its sequence that see it.
PLACES: dict[str, tuple[dict[str, Any], int, Tensor]] = {
    "future": ({}, 9, AT >= 9),
    "window": ({"window": 3}, 5, (AT >= 5) & (AT < 8)),
    "padding": ({"key_mask": MASK}, 1, AT < 3),
    "document": ({"documents": (AT >= 6).long()[None].expand(2, -1)}, 3, (AT >= 3) & (AT < 6)),
}
IMPLS = ("native", "folded", "chunked", "reference")
VARIANTS = ("transformer++", "dcmha(static=true)", "dape", "sas", "diff2", "gated")


def run(call: Call, flat: list[Tensor], impl: str, options: dict, rows: Tensor) -> list[Tensor]:
    """The chosen rows of the output, and every gradient of a loss on them."""
    leaves = [t.detach().clone().requires_grad_() for t in flat]
    own = call.unflatten(leaves)
    with bands(4):
        o = attention(own.q, own.k, own.v, own.edits, tensors=own.tensors, impl=impl, **options)
        o = o.transpose(1, 2)
        grads = torch.autograd.grad(o[rows].sin().sum(), leaves, allow_unused=True)
    zeros = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)]
    return [o.detach(), *zeros]


def spoilt(kinds: list[str], flat: list[Tensor], token: int, value: float) -> list[list[Tensor]]:
    """All tensors of tokens together, and each alone, with ``value`` at a token of sequence 0."""
    found = []
    changed = []
    for kind, t in zip(kinds, flat, strict=True):
        bad = t.detach().clone()
        if kind != "layer":
            (bad[0, :, token] if kind in ("q", "k", "v") else bad[0, token]).fill_(value)
        changed.append(bad)
    found.append(changed)
    for n, kind in enumerate(kinds):
        if kind != "layer":
            found.append([*flat[:n], changed[n], *flat[n + 1 :]])
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_that_do_not_see_it_do_not_change(variant: str, place: str) -> None:
    of = CheckSubject(variant, heads=2, head_dim=4)
    call = call_of(of.layer(), of.input(2, T))
    kinds, flat = call.flatten()
    options, token, sees = PLACES[place]
    rows = torch.ones(2, T, dtype=torch.bool)
    rows[0] = ~sees
    for impl in IMPLS:
        try:
            want = run(call, flat, impl, options, rows)
        except SoftmapError:
            continue
        for value in (math.nan, math.inf)[: 2 if place == "future" else 1]:
            for bad in spoilt(kinds, flat, token, value):
                got = run(call, bad, impl, options, rows)
                assert_same(got[0][rows], want[0][rows], f"{impl}, output")
                for n, (a, b) in enumerate(zip(got[1:], want[1:], strict=True)):
                    assert_same(a, b, f"{impl}, gradient of input {n}")
                if place != "padding" and math.isnan(value):
                    assert got[0][0, token].isnan().all(), f"{impl} hides a NaN"


def test_gradients_of_rows_that_see_it_are_not_finite() -> None:
    """A loss of NaN has no finite gradients, which an optimiser would follow."""
    of = CheckSubject("dcmha", heads=2, head_dim=4)
    call = call_of(of.layer(), of.input(2, T))
    kinds, flat = call.flatten()
    rows = torch.zeros(2, T, dtype=torch.bool)
    rows[0, 10] = True
    for impl in IMPLS[::2]:
        out, dq, dk, dv, *rest = run(call, spoilt(kinds, flat, 9, math.nan)[3], impl, {}, rows)
        assert out[0, 10].isnan().all() and out[0, :9].isfinite().all()
        assert dq[0, :, 10].isnan().all() and dq[0, :, :10].isfinite().all()
        assert dk[0, :, :11].isnan().all() and dk[0, :, 11:].isfinite().all()
        assert dv[1].isfinite().all()
        assert all(g.isnan().any() for g in rest)


def test_map_shows_the_same() -> None:
    q, k = torch.randn(2, 1, 2, 6, 4)
    want = attention_map(q, k)
    k[:, :, 4] = math.nan
    got = attention_map(q, k)
    assert torch.equal(got[:, :, :4], want[:, :, :4])
    assert got[0, 0, 4].isnan().tolist() == [True] * 5 + [False]
    got = attention_map(q[:, :, 4:], k, window=2)  # fewer rows, and keys that none of them sees
    assert got[0, 0].isnan().tolist() == [[False] * 3 + [True] * 2 + [False],
                                          [False] * 4 + [True] * 2]  # fmt: skip


def test_zero_is_a_choice_not_a_product() -> None:
    visible = torch.tensor([[True, False]])[None, None]
    band = Band(AT[None, :1], AT[None, :2], visible.long(), visible)
    assert band.zero(torch.tensor([[[[2.0, math.nan]]]])).flatten().tolist() == [2.0, 0.0]


class KeyBias(Edit):
    """S' = S + b_j."""

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return m + t["b"][:, None, None]


@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize("low", [-math.inf, torch.finfo(torch.float32).min])
def test_scores_as_low_as_can_be_stay_above_hidden_ones(impl: str, low: float) -> None:
    """Rows whose keys all have -inf see nothing: zeros. No other low number lets the future in."""
    q, k, v = (t.requires_grad_() for t in torch.randn(3, 1, 2, 6, 4))
    b = torch.zeros(1, 6)
    b[:, :3] = low
    out = attention(q, k, v, [KeyBias()], tensors=[Tensors({}, {}, {"b": b})], impl=impl)
    torch.testing.assert_close(out[:, :, 3], v[:, :, 3])
    if low == -math.inf:
        assert not out[:, :, :3].any()
    else:  # the bias swallows the scores: equal weights
        torch.testing.assert_close(out[:, :, 1], v[:, :, :2].mean(2))
    out.sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (q, k, v))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "make", [lambda t: t * 1e15, lambda t: (t * 300).half()], ids=["1e30", "float16"]
)
def test_large_scores(impl: str, make: Callable[[Tensor], Tensor]) -> None:
    """Scores of 1e30, and in float16 beyond 65504: the float64 reference's result."""
    q, k, v = torch.randn(3, 1, 2, 9, 4, generator=torch.manual_seed(0))
    q, k = make(q), make(k)
    q, k, v = leaves = [t.requires_grad_() for t in (q, k, v.to(q.dtype))]
    out = attention(q, k, v, impl=impl)
    q, k, v = (t.detach().double() for t in leaves)
    want = attention(q, k, v, impl="reference")
    torch.testing.assert_close(out.double(), want, atol=1e-3, rtol=1e-3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.parametrize("impl", IMPLS)
def test_overflow_stays_in_its_row(impl: str) -> None:
    """Finite inputs whose scores are infinite from the fifth row on."""
    q, k, v = torch.randn(3, 1, 2, 9, 4, generator=torch.manual_seed(0))
    want = attention(q, k, v, impl=impl)
    q[:, :, 4:], k[:, :, 4:] = 1e30, 1e30
    q.requires_grad_()
    out = attention(q, k, v, impl=impl)
    torch.testing.assert_close(out[:, :, :4], want[:, :, :4])
    (g,) = torch.autograd.grad(out[:, :, :4].sum(), q)
    assert g.isfinite().all() and g[:, :, :4].any()
