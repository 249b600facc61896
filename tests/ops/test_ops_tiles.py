"""Tiles: several to a band give what the dense map gives; their masks; edits with hand-written
adjoints."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from softmap.maps import Band, Edit
from softmap.ops import attention, chunked, make_call, tiles
from softmap.ops.call import band_of
from softmap.ops.masks import Masks
from softmap.testing import CheckSubject
from softmap.testing.layers import _same_as_reference
from softmap.variants import Place, build, load


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands of several tiles of two rows."""
    monkeypatch.setattr(tiles, "TILE_BYTES", 1)
    monkeypatch.setattr(tiles, "MIN_ROWS", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variant", ["dcmha(static=true)", "dape", "diff", "talking-heads"])
def test_output_and_gradients_are_the_references(variant: str) -> None:
    _same_as_reference(CheckSubject(variant), "chunked", band_rows=(5,))


class Above(Edit):
    """S'[i] = S[i] + w (S[i-1] + S[i-2]): a halo of two rows."""

    halo = 2

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4))

    def layer_tensors(self) -> dict[str, Tensor]:
        return {"w": self.w}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        above = nn.functional.pad(band.zero(m), (0, 0, 2, 0))
        return m + t["w"][:, None, None] * (above[:, :, :-2] + above[:, :, 1:-1])


@pytest.mark.usefixtures("small")
def test_halo_between_tiles() -> None:
    torch.manual_seed(0)
    edit = Above().double()
    leaves = [torch.randn(2, 4, 13, 3, dtype=torch.float64).requires_grad_() for _ in range(3)]
    results = {}
    for impl in ("reference", "chunked"):
        out = attention(*leaves, [edit], impl=impl)
        results[impl] = [out, *torch.autograd.grad(out.sin().sum(), [*leaves, edit.w])]
    for got, want in zip(results["chunked"], results["reference"], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("window", [None, 3])
def test_shared_masks_are_those_of_the_band(window: int | None) -> None:
    q, k = torch.randn(1, 2, 9, 4), torch.randn(1, 2, 14, 4)
    call = make_call(q, k, k, window=window)
    masks = Masks(call, 4)
    for span in call.spans(4):
        got, want = masks.band(span), band_of(call, span)
        for name in ("rows", "cols", "gap", "visible"):
            assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert got.whole == want.whole
        assert torch.equal(masks.hidden(span) == 0, want.visible)
        assert masks.seen(span) == (0 if window else int(want.visible.all(2).sum()))


def test_sequences_share_a_tile_where_no_edit_has_tensors_of_tokens() -> None:
    q = torch.randn(4, 8, 256, 8)
    x = torch.randn(4, 256, 64)
    together = {}
    for variant in ("kerple", "dcmha"):
        made = build(load(variant).parts, 8, 64, 8, 8, 0, 1)
        spans = chunked.bands(make_call(q, q, q, made, x=x))
        together[variant] = max(s.end - s.begin for s in spans)
    assert together["kerple"] == 4 > together["dcmha"]


def test_a_subclass_does_not_inherit_the_adjoint_of_another_edit() -> None:
    parent = load("talking-heads").parts.scores[0](Place(4, 16, 4, 4, 0, 1))

    class Doubled(type(parent)):  # type: ignore[misc]
        def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
            return 2 * super().edit(m, band, t)

    edit = Doubled(Place(4, 16, 4, 4, 0, 1), "scores")
    q = torch.randn(1, 4, 6, 4)
    want = attention(q, q, q, [edit], impl="reference")
    torch.testing.assert_close(attention(q, q, q, [edit], impl="chunked"), want)
