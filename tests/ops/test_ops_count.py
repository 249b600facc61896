"""Operations of edits: counted by running them, so none has to declare any."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import softmap
from softmap.errors import SoftmapError
from softmap.maps import Band, Edit
from softmap.ops.count import Counted, EditInput, operations

HEADS, WIDTH, DIM = 4, 6, 24
PLACE = EditInput(HEADS, WIDTH, WIDTH, DIM)


def counted(variant: str, n: int = 0) -> Counted:
    return operations(softmap.edits(variant, heads=HEADS, head_dim=WIDTH)[n], PLACE)


def test_a_mix_of_heads_is_a_product_of_heads() -> None:
    assert counted("talking-heads") == Counted(cell=2.0 * HEADS**2, token=0)


def test_dcmha_by_hand() -> None:
    """A side of rank 2: for each rank a product and a sum over heads, then a multiply-add; its
    gate once in the gain 1 + g_q + g_k (at a row, at a cell) and a product with the map."""
    one_side = 2 * (2 * HEADS + 2 * HEADS)
    assert counted("dcmha(gates=false,key=false)").cell == one_side + HEADS  # times the gain, 1
    both = counted("dcmha").cell
    assert both == 2 * one_side + HEADS + HEADS  # the two gates added at a cell, the product


def test_a_bias_costs_its_sum_for_each_sequence() -> None:
    """What it makes of the distances is the same for the whole batch."""
    assert [counted(name).cell for name in ("alibi", "kerple", "fire")] == [HEADS] * 3


def test_closed_forms_cost_nothing_at_a_cell() -> None:
    per_token = 2 * (HEADS // 2) * WIDTH  # lambda times the second, subtracted from the first
    assert counted("diff") == Counted(0, per_token)
    assert counted("temperature") == Counted(0, HEADS * WIDTH)


class Contextual(Edit):
    """A running sum of gates: nobody has declared what it costs."""

    stage = "scores"

    def __init__(self) -> None:
        super().__init__()
        self.to_gain = nn.Linear(DIM, HEADS, bias=False)

    def key_tensors(self, x: Tensor) -> dict[str, Tensor]:
        return {"gain": self.to_gain(x)}

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return m + m.sigmoid().cumsum(-1)


class Looks(Contextual):
    """It looks at numbers."""

    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        return m * 2 if bool((t["gain"] > 1).any()) else m + 1


class Breaks(Contextual):
    def edit(self, m: Tensor, band: Band, t: dict[str, Tensor]) -> Tensor:
        raise KeyError("gone")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_one_s_own_edit_is_counted_as_it_runs(device: str) -> None:
    with torch.device(device):
        made, looks = Contextual(), Looks()
    assert operations(made, PLACE) == Counted(3.0 * HEADS, 2.0 * DIM * HEADS)
    assert operations(looks, PLACE).cell == HEADS


def test_what_cannot_run_says_so_in_one_line() -> None:
    with pytest.raises(SoftmapError, match=r"^Breaks: its operations cannot be counted: .*gone"):
        operations(Breaks(), PLACE)
