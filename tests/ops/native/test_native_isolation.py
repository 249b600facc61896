"""What a row may not see does not reach it: later tokens, other sequences, padding, old memory."""

from __future__ import annotations

import pytest
import torch
from native_cases import Case, results
from torch import Tensor

from softmap.ops import native
from softmap.ops.call import Call

VARIANTS = [
    "dcmha(static=true)",
    "diff2+sas",
    "sas",
    "fire+temperature",
    "dape(kernel=5)",
    "forget+softcap",
]


def changed(call: Call, place: slice, batch: slice, factor: float) -> Call:
    """The tokens at ``place`` of some sequences multiplied: q, k, v and the edits' tensors."""
    kinds, flat = call.flatten()
    made = [t.clone() for t in flat]
    for kind, t in zip(kinds, made, strict=True):
        if kind in ("q", "k", "v"):
            t[batch, :, place] *= factor
        elif kind != "layer":
            t[batch, place] *= factor
    return call.unflatten(made)


@pytest.mark.parametrize("factor", [-3.0, 1e4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_later_tokens(variant: str, factor: float) -> None:
    """Forward and the gradients of earlier rows' queries, bit for bit."""
    call = Case(variant, tokens=150, batch=1, heads=2).call(torch.float32)
    for cut in (1, 31, 77, 128, 149):
        later = changed(call, slice(cut, None), slice(None), factor)
        assert torch.equal(native.run(call)[:, :, :cut], native.run(later)[:, :, :cut])
        assert torch.equal(query_grads(call, cut), query_grads(later, cut))


def query_grads(call: Call, cut: int) -> Tensor:
    """Of the rows before ``cut``, from the outputs of those rows."""
    q = call.q.detach().clone().requires_grad_()
    out = native.run(call.unflatten([q, *call.flatten()[1][1:]]))[:, :, :cut]
    return torch.autograd.grad(out.sum(), q)[0][:, :, :cut]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_nan_stays_in_its_sequence(variant: str, threads: int) -> None:
    torch.set_num_threads(threads)
    call = Case(variant, batch=3, tokens=70).call()
    broken = changed(call, slice(None), slice(1, 2), torch.nan)
    want, got = results(native.run, call), results(native.run, broken)
    kinds = ["output", *call.flatten()[0]]
    for kind, (name, value) in zip(kinds, want.items(), strict=True):
        if kind != "layer":
            assert torch.equal(got[name][0], value[0]), name
            assert torch.equal(got[name][2], value[2]), name
    assert got["output"][1].isnan().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_is_not_read(variant: str) -> None:
    case = Case(variant, tokens=150, left=133)
    call = case.call()
    other = changed(call, slice(0, 133), slice(0, 1), -7.0)
    want, got = results(native.run, call), results(native.run, other)
    for name, value in want.items():
        if "layer" in name:
            assert torch.allclose(got[name], value, atol=1e-12), name
    assert torch.equal(native.run(call)[0, :, 133:], native.run(other)[0, :, 133:])


def test_a_row_that_sees_nothing_is_zero() -> None:
    out = native.run(Case("dcmha(static=true)", left=9, hidden=True).call())
    assert not out[0, :, :9].any()
    assert not out[1].any()
    assert out[0, :, 9:].all()
