"""The protocol: bands, masks, and what an edit declares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import (
    Band,
    Edit,
    chain,
    compute_dtype,
    heads_after,
    make_band,
    needs_input,
    tensors_of,
)
from softmap.variants.diff import Difference


def band(rows: list[int], cols: list[int], window: int | None = None, valid: object = None):
    at = torch.tensor(rows), torch.tensor(cols)
    mask = None if valid is None else torch.tensor(valid, dtype=torch.bool)
    return make_band(at[0][None], at[1][None], *at, window, mask)


def test_visible_is_causal() -> None:
    got = band([1, 2], [0, 1, 2, 3]).visible
    assert got.tolist() == [[[[True, True, False, False], [True, True, True, False]]]]


def test_window_counts_the_rows_own_key() -> None:
    got = band([3, 4], [0, 1, 2, 3, 4], window=2).visible[0, 0]
    assert got.tolist() == [[False, False, True, True, False], [False, False, False, True, True]]


def test_padding_is_never_visible() -> None:
    got = band([0, 1, 2], [0, 1, 2], valid=[[False, True, True], [True, True, True]]).visible
    assert got.shape == (2, 1, 3, 3)
    assert not got[0, ..., 0].any() and got[1, 0, 2, 0]


def test_beyond_is_by_place_even_where_padding_follows() -> None:
    """A padded token has the position of the token before it, and still lies beyond the row."""
    positions, places = torch.tensor([[0, 1, 1]]), torch.arange(3)
    mask = torch.tensor([[True, True, False]])
    got = make_band(positions, positions, places, places, None, mask)
    assert got.beyond[0, 0].tolist() == [
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert got.distance[0, 0].tolist() == [[0, -1, -1], [1, 0, 0], [1, 0, 0]]


def test_diagonal_and_zero() -> None:
    b = band([1, 2], [0, 1, 2])
    assert b.diagonal[0, 0].tolist() == [[False, True, False], [False, False, True]]
    assert b.zero(torch.ones(1, 1, 2, 3))[0, 0].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_packed_rows_see_their_own_document() -> None:
    """Positions start again, so that row 3 has the position of row 0: masks go by place."""
    positions, places = torch.tensor([[0, 1, 2, 0, 1]]), torch.arange(5)
    starts = torch.tensor([[0, 0, 0, 3, 3]])
    got = make_band(positions, positions, places, places, None, None, starts)
    assert got.visible[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert torch.equal(got.diagonal[0, 0], torch.eye(5).bool()) and not got.whole
    one = make_band(positions, positions, places, places, None, None)
    assert torch.equal(one.diagonal[0, 0], torch.eye(5).bool())


def test_whole_says_that_nothing_is_hidden() -> None:
    assert band([0], [0]).whole
    assert not band([0], [0], window=1).whole
    assert not band([0], [0], valid=[[True]]).whole


class Halve(Edit):
    stage = "weights"

    def heads_out(self, heads: int) -> int:
        return heads // 2


class NeedsKeys(Edit):
    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        return {"k": 2 * x}


def test_chain_keeps_order_and_places() -> None:
    edits = [NeedsKeys(), Halve(), Halve()]
    assert chain(edits, "weights") == [(1, edits[1]), (2, edits[2])]
    assert heads_after(edits, 8) == 2


def test_tensors_of() -> None:
    x = torch.ones(1, 2, 3)
    got = tensors_of(NeedsKeys(), x)
    assert got.layer == {} and got.query == {} and torch.equal(got.key["k"], 2 * x)
    assert tensors_of(Halve(), None) == ({}, {}, {})
    assert needs_input(NeedsKeys()) and not needs_input(Halve())
    with pytest.raises(SoftmapError, match=r"NeedsKeys .*expected x=\(B, T, D\), found None"):
        tensors_of(NeedsKeys(), None)


def test_edit_by_itself_edits_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Edit().edit(torch.ones(1, 1, 1, 1), band([0], [0]), {})
    assert Edit().fold_query(torch.ones(1), {}) is None and Edit().flops_per_cell() == 0


def test_compute_dtype() -> None:
    pairs = [(torch.bfloat16, torch.float32), (torch.float16, torch.float32)]
    pairs += [(torch.float32, torch.float32), (torch.float64, torch.float64)]
    for given, used in pairs:
        assert compute_dtype(torch.ones(1, dtype=given)) is used


def test_a_subclass_does_not_inherit_a_kernel() -> None:
    class Other(Difference):
        def edit(self, m: torch.Tensor, band: Band, t: dict[str, torch.Tensor]) -> torch.Tensor:
            return m[:, 0::2]

    assert Difference.kernel == "subtract_pairs" and Other.kernel is None
