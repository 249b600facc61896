"""Closed forms in one kernel each, against the dense reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_cases import Case, off, results, truth

from softmap.ops import triton
from softmap.ops.call import Call

# More tokens than a tile has, and not a multiple of it.
CASES = [
    Case("diff", tokens=150, batch=1),
    Case("diff2", heads=2, kv_heads=1, tokens=19),
    Case("sas", heads=3, tokens=300, head_dim=5),
    Case("sas(value=linear,first_value=linear)", kv_heads=2, tokens=150),
    Case("v-skipinit", heads=2, tokens=17),
    Case("diff2+sas", heads=2, tokens=140, batch=1),
    Case("diff+temperature", tokens=33),
]


def _closed(call: Call) -> bool:
    from softmap.ops.triton import closed  # not before the interpreter is asked for

    return closed.takes(call)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_gradient(case: Case, device: str) -> None:
    call = case.call(torch.float32, device)
    assert triton.refuses(call) is None
    assert _closed(call)
    ours, want = results(triton.run, call), truth(call)
    assert ours.keys() == want.keys()
    for name, t in want.items():
        assert off(ours[name], t) < 1e-5, name


@pytest.mark.parametrize("variant", ["diff", "diff2", "sas"])
def test_tokens_before_heads_in_memory(variant: str, device: str) -> None:
    """The gradient arrives as a view where heads stand beside their channels."""

    def turned(call: object) -> Tensor:
        return triton.run(call).transpose(1, 2).contiguous().transpose(1, 2)  # type: ignore[arg-type]

    call = Case(variant, tokens=40).call(torch.float32, device)
    want = truth(call)
    for name, t in results(turned, call).items():
        assert off(t, want[name]) < 1e-5, name


@pytest.mark.parametrize(
    "case", [Case("diff", window=5), Case("sas", left=3), Case("diff2", queries=2)]
)
def test_other_masks_are_left_to_the_template(case: Case, device: str) -> None:
    assert not _closed(case.call(torch.float32, device))


def test_auto_leaves_plain_attention_to_sdpa(device: str) -> None:
    call = Case("transformer++").call(torch.float32, device)
    assert "scaled_dot_product_attention" in str(triton.skipped(call))
    for other in (Case("diff"), Case("transformer++", window=5), Case("kerple")):
        assert triton.skipped(other.call(torch.float32, device)) is None


@pytest.mark.parametrize("width", [16, 5])
def test_a_head_norm_has_a_kernel(width: int, device: str) -> None:
    """y = w x / sqrt(mean x^2 + eps), of more tokens than a tile has."""
    from softmap.ops.triton import closed

    o = torch.randn(2, 3, 140, width, device=device, requires_grad=True)
    weight = torch.randn(width, device=device, requires_grad=True)
    wide, gain = (t.detach().double().requires_grad_() for t in (o, weight))
    want = gain * wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    upstream = torch.randn(2, 140, 3, width, device=device).transpose(1, 2)
    got = closed.norm(o, weight, 1e-3)
    assert off(got.detach(), want.detach()) < 1e-6
    ours = torch.autograd.grad(got, (o, weight), upstream)
    for g, t in zip(ours, torch.autograd.grad(want, (wide, gain), upstream.double()), strict=True):
        assert off(g, t) < 1e-6


def test_a_head_norm_is_tried_before_it_is_taken(device: str) -> None:
    from softmap.ops.qualify import kind_of

    call = Case("diff").call(torch.float32, device)
    assert [edit[1] for edit in kind_of(triton, call).edits] == ["subtract_pairs", "head_norm"]


def test_a_head_norm_of_another_width_is_left_to_torch(device: str) -> None:
    """The kernel would read past the weight; torch says what does not fit."""
    call = Case("diff").call(torch.float32, device)
    (edit, t) = call.edits[-1], call.tensors[-1].layer
    o = torch.randn(1, 2, 3, t["weight"].shape[0], device=device)
    assert triton.output(edit, o, t) is not None
    assert triton.output(edit, o[..., 1:], t) is None
