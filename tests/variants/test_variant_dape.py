"""DAPE against a row-by-row evaluation in which the key axis really goes on with zeros."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softmap.errors import SoftmapError
from softmap.maps import make_band
from softmap.ops import attention_map
from softmap.testing.subject import perturb, seeded
from softmap.variants import build, load
from softmap.variants.dape import ScoreConv

TOKENS = 9


def made(variant: str) -> ScoreConv:
    with seeded(3):
        (edit,) = build(load(variant).parts, 4, 16, 4, 16, 0, 1)
        return perturb(edit).double()


def scores() -> tuple[Tensor, Tensor, Tensor]:
    with seeded(4):
        q, k = (torch.randn(1, 4, TOKENS, 4, dtype=torch.float64) for _ in range(2))
        return q, k, q @ k.mT / 2


def bias_of(edit: ScoreConv, s: Tensor) -> Tensor | None:
    """B (1, H, T, T), or None."""
    if edit.bias is None:
        return None
    at = torch.arange(TOKENS)
    return edit.bias.values(
        make_band(at[None], at[None], at, at, None, None), edit.bias.layer_tensors()
    )


def naive(edit: ScoreConv, s: Tensor, bias: Tensor | None) -> Tensor:
    """Row i by itself: its i + 1 scores, then zeros for ever."""
    rows = torch.full_like(s, -torch.inf)
    reach = edit.up.kernel_size[1] // 2
    for i in range(TOKENS):
        own = s[:, :, i, : i + 1]
        channels, base = own, own
        if bias is not None:
            b = bias[:, :, i, : i + 1]
            channels, base = torch.cat([own, b], 1), own + b
        # Zeros enough that neither convolution meets the end of the array.
        wide = F.pad(channels, (reach, 4 * reach))
        hidden = F.leaky_relu(F.conv1d(wide, edit.up.weight[:, :, 0], edit.up.bias), 0.01)
        out = F.conv1d(F.pad(hidden, (reach, 0)), edit.down.weight[:, :, 0], edit.down.bias)
        rows[:, :, i, : i + 1] = base + out[..., : i + 1]
    return rows


VARIANTS = [
    "dape",
    "dape(kernel=5)",
    "dape(version=1)",
    "dape(bias=none)",
    "dape(bias=rope,kernel=7)",
    "dape(bias=alibi)",
    "dape(bias=fire,hidden=8)",
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_each_row_by_itself(variant: str) -> None:
    edit = made(variant)
    q, k, s = scores()
    got = attention_map(q, k, [edit])
    torch.testing.assert_close(got, naive(edit, s, bias_of(edit, s)).softmax(-1))


def test_equals_the_authors_convolution_but_for_its_last_rows() -> None:
    """conv2d over the causally zeroed [S; B], as published: its array ends at the last key, so the
    last k // 2 rows lose what the second convolution should read beyond it."""
    edit = made("dape")
    q, k, s = scores()
    bias = bias_of(edit, s)
    assert bias is not None
    maps = torch.cat([s, bias], 1).tril()
    hidden = F.leaky_relu(F.conv2d(maps, edit.up.weight, edit.up.bias, padding=(0, 1)), 0.01)
    out = F.conv2d(hidden, edit.down.weight, edit.down.bias, padding=(0, 1))
    ours = attention_map(q, k, [edit])
    future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    theirs = (s + bias + out).masked_fill(future, -torch.inf).softmax(-1)
    torch.testing.assert_close(ours[:, :, :-1], theirs[:, :, :-1])
    assert not torch.allclose(ours[:, :, -1], theirs[:, :, -1])


@pytest.mark.parametrize("variant", ["dape", "dape(kernel=7)"])
def test_no_future_leak_and_no_dependence_on_length(variant: str) -> None:
    edit = made(variant)
    q, k, _ = scores()
    whole = attention_map(q, k, [edit])
    for n in range(1, TOKENS):
        part = attention_map(q[:, :, :n], k[:, :, :n], [edit])
        torch.testing.assert_close(part, whole[:, :, :n, :n])


def test_version_one_is_a_linear_map_at_each_cell() -> None:
    edit = made("dape(version=1)")
    assert edit.pad == 0 and edit.up.weight.shape == (32, 8, 1, 1)
    cell = torch.randn(8, dtype=torch.float64)
    up, down = edit.up.weight[:, :, 0, 0], edit.down.weight[:, :, 0, 0]
    want = down @ F.leaky_relu(up @ cell + edit.up.bias, 0.01) + edit.down.bias
    at = torch.zeros(1, dtype=torch.long)
    band = make_band(at[None], at[None], at, at, None, None)
    edit.bias.values = lambda band, t: cell[4:].view(1, 4, 1, 1)  # type: ignore[union-attr]
    got = edit.edit(cell[:4].view(1, 4, 1, 1), band, edit.layer_tensors())
    torch.testing.assert_close(got.flatten(), cell[:4] + cell[4:] + want)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "dape(bias=kerpel)",
            "variant 'dape': bias: expected one of .*found 'kerpel'.*did you mean 'kerple'",
        ),
        ("dape(version=3)", "version: expected one of 1, 2, found 3"),
        ("dape(kernel=4)", "kernel must be odd and positive, found 4"),
    ],
)
def test_bad_options(variant: str, message: str) -> None:
    with pytest.raises(SoftmapError, match=message):
        load(variant)
