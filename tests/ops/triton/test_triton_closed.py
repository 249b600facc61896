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
