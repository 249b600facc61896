"""The protocol: bands, masks, and what an edit declares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.maps import (
    Band,
    Edit,
    at_least,
    chain,
    check_declared,
    compute_dtype,
    heads_after,
    make_band,
    needs_input,
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


def test_a_call_gives_all_tensors() -> None:
    x = torch.ones(1, 2, 3)
    got = NeedsKeys()(x)
    assert got.layer == {} and got.query == {} and torch.equal(got.key["k"], 2 * x)
    assert Halve()() == ({}, {}, {})
    assert needs_input(NeedsKeys()) and not needs_input(Halve())
    with pytest.raises(SoftmapError, match=r"NeedsKeys .*expected x=\(B, T, D\), found None"):
        NeedsKeys()()


@pytest.mark.parametrize("kinds", [("layer", "query"), ("layer", "key"), ("query", "key")])
def test_two_tensors_of_one_name_are_refused(kinds: tuple[str, str]) -> None:
    class Both(Edit):
        def layer_tensors(self) -> dict[str, Tensor]:
            return {"g": torch.ones(1)} if "layer" in kinds else {}

        def query_tensors(self, x: Tensor) -> dict[str, Tensor]:
            return {"g": x} if "query" in kinds else {}

        def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
            return {"g": x} if "key" in kinds else {}

    named = f"a {kinds[0]} tensor and a {kinds[1]} tensor named 'g'"
    with pytest.raises(SoftmapError, match=named):
        Both()(torch.ones(1, 2, 3))


def test_what_no_backend_would_read_is_refused() -> None:
    def declared(stage: str, **attributes: object) -> None:
        cls = type("Odd", (Edit,), {"stage": stage, **attributes})
        check_declared(cls())

    method = lambda self, *a: {}  # noqa: E731
    for stage, name, value in (
        ("output", "key_tensors", method),
        ("output", "pad", 1),
        ("scores", "heads_out", method),
        ("weights", "fold_query", method),
        ("scores", "folds_output", True),
    ):
        with pytest.raises(SoftmapError, match=f"Odd declares {name}, .* found stage '{stage}'"):
            declared(stage, **{name: value})
    declared("scores", pad=1, halo=1, fold_query=method, key_tensors=method)
    declared("weights", heads_out=method, folds_output=True, halo=2, key_tensors=method)


@pytest.mark.parametrize("p", [-3.0, 0.009, 0.01, 0.5])
def test_a_floor_never_blocks_the_way_back(p: float) -> None:
    """Above the floor every gradient passes; below, the one that a descent needs to come back."""
    for upstream in (-2.0, 2.0):
        x = torch.tensor([p], requires_grad=True)
        y = at_least(x, 0.01)
        y.backward(torch.tensor([upstream]))
        assert y.item() == pytest.approx(max(p, 0.01)) and x.grad is not None
        assert x.grad.item() == (upstream if p >= 0.01 or upstream < 0 else 0.0)


def test_what_a_hook_may_free_is_handed_out_as_a_copy() -> None:
    """FSDP2 frees the storage of a module's parameters in a hook after its forward."""

    class Own(Edit):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def layer_tensors(self) -> dict[str, Tensor]:
            return {"gain": self.gain}

    edit = Own()
    assert edit().layer["gain"] is edit.gain

    def free(module: Own, args: object, output: object) -> None:
        module.gain.data.zero_()

    edit.register_forward_hook(free)
    assert edit().layer["gain"].tolist() == [1, 1, 1] and edit.gain.tolist() == [0, 0, 0]


def test_edit_by_itself_edits_nothing() -> None:
    with pytest.raises(NotImplementedError):
        Edit().edit(torch.ones(1, 1, 1, 1), band([0], [0]), {})
    with pytest.raises(NotImplementedError):
        Edit().fold_query(torch.ones(1), None, {})  # type: ignore[arg-type]


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
