"""ALiBi, KERPLE and FIRE at numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import linear

from softmap.errors import SoftmapError
from softmap.maps import Band, make_band
from softmap.nn import Attention
from softmap.variants import Place
from softmap.variants.biases import Alibi, Fire, Kerple, alibi_slopes


def place(heads: int) -> Place:
    return Place(heads=heads, dim=16, head_dim=4, value_dim=4, layer=0, depth=1)


def band(tokens: int) -> Band:
    at = torch.arange(tokens)
    return make_band(at[None], at[None], at, at, None, None)


def test_alibi_slopes_of_eight_heads() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


def test_alibi_slopes_of_twelve_heads() -> None:
    """Those of 8, then every other one of 16: 2^-0.5, 2^-1.5, ..."""
    expected = [2.0**-n for n in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(expected))


def test_alibi_is_linear_in_the_distance() -> None:
    edit = Alibi(place(8))
    got = edit.edit(torch.ones(1, 8, 4, 4), band(4), edit.layer_tensors())
    assert got[0, 0, 3].tolist() == [1 - 1.5, 1 - 1.0, 1 - 0.5, 1.0]
    assert got[0, 1, 2].tolist()[:3] == [1 - 0.5, 1 - 0.25, 1.0]


def test_kerple_is_logarithmic_and_kept_above_its_floor() -> None:
    edit = Kerple(place(2))
    with torch.no_grad():
        edit.p.copy_(torch.tensor([2.0, -1.0]))
        edit.a.copy_(torch.tensor([0.5, 0.0]))
    got = edit.values(band(4), edit.layer_tensors())
    assert got[0, 0, 3, 0].item() == pytest.approx(-2 * math.log(1 + 0.5 * 3))
    assert got[0, 1, 3, 0].item() == pytest.approx(-0.01 * math.log(1 + 0.01 * 3))
    assert got[0, :, 3, 3].tolist() == [0, 0]
    many = Kerple(place(10_000))
    assert many.a.min() >= 0 and many.a.max() <= 1 < many.p.max() <= 2
    assert abs(many.p.mean() - 1) < 0.05 and abs(many.a.mean() - 0.5) < 0.05


@pytest.mark.parametrize(("row", "reach"), [(2, 8.0), (20, 20.0)])
def test_fire_normalises_by_the_longer_of_row_and_threshold(row: int, reach: float) -> None:
    """L = 8: before it the distance is divided by L's logarithm, after it by the row's own."""
    edit = Fire(place(3), start=8.0)
    got = edit.values(band(21), edit.layer_tensors())[0, :, row, row - 2]
    ratio = math.log(1 + 0.1 * 2) / math.log(1 + 0.1 * reach)
    want = linear(torch.relu(linear(torch.tensor([ratio]), *edit.up())), *edit.down())
    torch.testing.assert_close(got, want)


def test_fire_threshold_is_learned() -> None:
    edit = Fire(place(3), start=8.0)
    with torch.no_grad():
        edit.multiplier.fill_(-0.25)
        edit.c.fill_(-0.1)
    t = edit.layer_tensors()
    assert t["length"].item() == pytest.approx(2.0) and t["c"].item() == pytest.approx(0.1)


def test_distances_stay_exact_in_bfloat16_models() -> None:
    """bfloat16 has 8 bits: 257 and 258 would be one distance."""
    edit = Alibi(place(2)).bfloat16()
    at = torch.arange(600)
    row = make_band(at[None, 599:], at[None], at[599:], at, None, None)
    got = edit.edit(torch.zeros(1, 2, 1, 600), row, edit.layer_tensors())
    slope = edit.slopes[0].item()
    torch.testing.assert_close(got[0, 0, 0], -slope * (599 - at).float())


def test_no_kerple_parameter_starts_without_a_gradient() -> None:
    edit = Kerple(place(10_000))
    sum(t.sum() for t in edit.layer_tensors().values()).backward()
    for parameter in (edit.p, edit.a):
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_files_with_scalars_still_load_into_fire() -> None:
    edit, old = Fire(place(3)), Fire(place(3)).state_dict()
    old |= {"c": torch.tensor(0.3), "multiplier": torch.tensor(2.0)}
    edit.load_state_dict(old)
    assert (edit.c.tolist(), edit.multiplier.tolist()) == ([pytest.approx(0.3)], [2.0])


def test_the_authors_fire_is_reached_by_options() -> None:
    """LeakyReLU(0.01), 1e-6 beside the denominator and half of the training length as L_0."""
    attention = Attention(16, 2, "dape(bias=fire,start=8,slope=0.01,eps=1e-6)")
    edit = attention.edits[0].bias
    got = edit.values(band(9), edit.layer_tensors())[0, :, 5, 3]
    ratio = math.log(1 + 0.1 * 2) / (math.log(1 + 0.1 * 8) + 1e-6)
    hidden = ratio * edit.up.weight[:, 0] + edit.up.bias
    hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
    torch.testing.assert_close(got, edit.down.weight @ hidden + edit.down.bias)
    alone = Attention(16, 2, "fire(start=8,slope=0.01,eps=1e-6)").edits[0]
    assert (alone.start, alone.slope, alone.eps) == (8.0, 0.01, 1e-6)


@pytest.mark.parametrize("name", ["dape(start=64)", "fire(start=0)", "fire(eps=-1)"])
def test_what_fire_refuses(name: str) -> None:
    with pytest.raises(SoftmapError, match="fire"):
        Attention(16, 2, name)
