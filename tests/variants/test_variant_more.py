"""The methods of docs/more-methods.md, each on numbers computed by hand.

One head of one channel, q = 1 and scale 1, so that the scores of a row are the keys themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import softmap
from softmap.ops import attention, attention_map

LN2, LN3 = math.log(2), math.log(3)


def edits_of(variant: str, **values: Any) -> Any:
    """Those of one head of one channel, their parameters set."""
    made = softmap.edits(variant, heads=1, head_dim=1).double()
    with torch.no_grad():
        for name, value in values.items():
            made[0].get_parameter(name.replace("__", ".")).copy_(torch.as_tensor(value))
    return made


def column(numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).view(1, 1, -1, 1)


def weights(edits: Any, keys: Sequence[float]) -> Tensor:
    """(T, T) the map of rows whose scores are the keys that they see."""
    k = column(keys)
    x = torch.ones(1, len(keys), 1, dtype=torch.float64)
    return attention_map(torch.ones_like(k), k, edits, scale=1.0, x=x)[0, 0]


def rows(*numbers: Sequence[float]) -> Tensor:
    """A lower triangle of these."""
    return torch.tensor([[*row, *[0.0] * (len(numbers) - len(row))] for row in numbers]).double()


def scores(edits: Any, keys: Sequence[float]) -> Tensor:
    """The last row's scores, less that of its own token: all that a softmax tells."""
    last = weights(edits, keys)[-1].log()
    return last - last[-1]


def test_sink_takes_its_share() -> None:
    want = rows([1 / 3], [1 / 5, 2 / 5], [1 / 8, 2 / 8, 3 / 8])
    torch.testing.assert_close(weights(edits_of("sink", b=[LN2]), [0, LN2, LN3]), want)


def test_off_by_one_adds_one() -> None:
    want = rows([1 / 2], [1 / 4, 2 / 4], [1 / 7, 2 / 7, 3 / 7])
    torch.testing.assert_close(weights(edits_of("off-by-one"), [0, LN2, LN3]), want)


@pytest.mark.parametrize("impl", ["reference", "folded", "native"])
def test_sink_needs_no_map(impl: str) -> None:
    """Of the last row above with values 1, 2, 4: (1 + 4 + 12) / 8."""
    k, v = column([0, LN2, LN3]), column([1, 2, 4])
    o = attention(torch.ones_like(k), k, v, edits_of("sink", b=[LN2]), scale=1.0, impl=impl)
    torch.testing.assert_close(o.flatten(), torch.tensor([1 / 3, 1.0, 17 / 8]).double())


def test_softpick_takes_what_is_above_zero() -> None:
    """exp(S) - 1 is -1/2, 1, 2: a row of none above zero is zeros."""
    want = rows([0], [0, 1 / 1.5], [0, 1 / 3.5, 2 / 3.5])
    got = weights(edits_of("softpick(eps=1e-12)"), [-LN2, LN2, LN3])
    torch.testing.assert_close(got, want)
    assert weights(edits_of("softpick"), [800.0, 790.0, -800.0]).isfinite().all()


def test_sigmoid_of_each_key_by_itself() -> None:
    """sigmoid(S - log n) = 1 / (1 + n exp(-S))."""
    want = rows([1 / 2], [1 / 3, 1 / 2], [1 / 4, 2 / 5, 1 / 2])
    torch.testing.assert_close(weights(edits_of("sigmoid"), [0, LN2, LN3]), want)


def test_stick_breaking_from_the_nearest_key() -> None:
    """Key 1 takes sigmoid(log 3) = 3/4, key 0 half of what is left."""
    keys = [0, LN3, 5.0]
    want = rows([0], [1 / 2, 0], [1 / 8, 3 / 4, 0])
    torch.testing.assert_close(weights(edits_of("stick-breaking"), keys), want)
    want = rows([1], [1 / 2, 1 / 2], [1 / 8, 3 / 4, 1 / 8])
    torch.testing.assert_close(weights(edits_of("stick-breaking(rest=true)"), keys), want)


@pytest.mark.parametrize("impl", ["reference", "folded"])
def test_ssmax_by_the_number_of_keys(impl: str) -> None:
    """s = 1: exp(log(n) S) = n^S. Of n = 3 and S = 0, 1, 2 the weights are 1, 3, 9 of 13."""
    edits = edits_of("ssmax", s=[1.0])
    want = rows([1], [1 / 3, 2 / 3], [1 / 13, 3 / 13, 9 / 13])
    torch.testing.assert_close(weights(edits, [0, 1, 2]), want)
    k, v = column([0, 1, 2]), column([0, 0, 13])
    o = attention(torch.ones_like(k), k, v, edits, scale=1.0, impl=impl)
    torch.testing.assert_close(o.flatten(), torch.tensor([0.0, 0, 9]).double())
    assert edits_of("ssmax")[0].s.tolist() == pytest.approx([0.43])


def test_softcap_bends_the_scores() -> None:
    """2 tanh(log(3) / 2) = 1, as tanh(log(3) / 2) = (3 - 1) / (3 + 1)."""
    got = scores(edits_of("softcap(cap=2)"), [LN3, -LN3, 0])
    torch.testing.assert_close(got, torch.tensor([1.0, -1, 0]).double())


def test_forget_fades_what_came_before() -> None:
    """sigmoid(log 3 + 0) = 3/4 by each token after the key."""
    made = edits_of("forget", gate__weight=[[LN3]], gate__bias=[0.0])
    want = torch.tensor([2 * math.log(3 / 4), math.log(3 / 4), 0]).double()
    torch.testing.assert_close(scores(made, [0, 0, 0]), want)
    assert (edits_of("forget")[0].gate.bias == 0).all()


def test_cope_counts_by_its_gates() -> None:
    """Gates of 1/2: the positions of three keys are 1.5, 1, 0.5; e there is 2, 1, 0.5."""
    made = edits_of("cope(positions=3)", e=[[0.0], [1.0], [3.0]])
    torch.testing.assert_close(scores(made, [0, 0, 0]), torch.tensor([1.5, 0.5, 0]).double())
    made = edits_of("cope(positions=2)", e=[[0.0], [1.0]])  # no further than position 1
    torch.testing.assert_close(scores(made, [0, 0, 0]), torch.tensor([0.5, 0.5, 0]).double())


def test_xsa_takes_off_the_own_value() -> None:
    """The output (1, 1) without its part along (2, 0); a value of zeros takes nothing."""
    (edit,) = softmap.edits("xsa", heads=1, head_dim=2)
    v = torch.tensor([[0.0, 0], [0, 2], [3, 1]]).view(1, 1, 3, 2)
    q = torch.zeros(1, 1, 3, 2)
    o = attention(q, q, v, [edit])
    want = torch.tensor([[0.0, 0], [0, 0], [1 - 0.3 * 4, 1 - 0.1 * 4]])  # (1, 1) . (3, 1) / 10
    torch.testing.assert_close(o[0, 0], want)


def test_gate_of_each_channel() -> None:
    """sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4 of the values of a single token."""
    (edit,) = softmap.edits("gated(channels=true)", heads=1, head_dim=2)
    with torch.no_grad():
        edit.gate.weight.copy_(torch.tensor([[0.0, 0], [LN3, 0]]))
    v = torch.tensor([4.0, 8.0]).view(1, 1, 1, 2)
    o = attention(v, v, v, [edit], x=torch.ones(1, 1, 2))
    torch.testing.assert_close(o.flatten(), torch.tensor([2.0, 6.0]))


def test_multi_token_convolves_rows_and_keys() -> None:
    """S' = S[i, j] + 2 S[i, j - 1] + 3 S[i - 1, j + 1], zero where a row may not look."""
    spec = "multi-token(rows=2,keys=3,post=false,heads=false,head_norm=false)"
    w = torch.tensor([[0.0, 0, 3], [2, 1, 0]]).view(1, 1, 2, 3)
    # Row 1 sees 1, 2; row 2 sees 1, 2, 4: (1 + 3 * 2, 2 + 2 * 1, 4 + 2 * 2).
    want = torch.tensor([-1.0, -4, 0]).double()
    torch.testing.assert_close(scores(edits_of(spec, w=w), [1, 2, 4]), want)
    with pytest.raises(softmap.SoftmapError, match="expected an odd number of keys, found 4"):
        softmap.edits("multi-token(keys=4)", heads=1, head_dim=1)


def test_multi_token_starts_as_it_was() -> None:
    made = softmap.edits("multi-token(head_norm=false)", heads=4, head_dim=4)
    q, k, v = torch.randn(3, 1, 4, 9, 4)
    torch.testing.assert_close(attention(q, k, v, made), attention(q, k, v))
