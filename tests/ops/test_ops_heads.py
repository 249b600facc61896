"""Which map reads which key: one rule for every head layout."""

from __future__ import annotations

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.ops.heads import Heads, combine, per_map, scores


@pytest.mark.parametrize(
    ("maps", "keys", "values", "outputs", "expected"),
    [
        # Multi-head and grouped-query attention: neighbours share.
        (4, 4, 4, 4, [0, 1, 2, 3]),
        (4, 2, 2, 4, [0, 0, 1, 1]),
        (4, 1, 1, 4, [0, 0, 0, 0]),
        # DIFF: output head h has maps 2h, 2h+1 with key halves 2g, 2g+1 of its group g.
        (4, 4, 2, 2, [0, 1, 2, 3]),
        (8, 4, 2, 4, [0, 1, 0, 1, 2, 3, 2, 3]),
        (8, 2, 1, 4, [0, 1, 0, 1, 0, 1, 0, 1]),
        # DIFF V2: both maps of a pair share one key.
        (8, 4, 4, 4, [0, 0, 1, 1, 2, 2, 3, 3]),
        (8, 2, 2, 4, [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_key_of_map(maps: int, keys: int, values: int, outputs: int, expected: list[int]) -> None:
    heads = Heads(maps, keys, values, outputs)
    assert heads.key_of_map == expected
    if heads.by_key is not None and heads.from_key is not None:
        assert [heads.by_key[m] for m in heads.from_key] == list(range(maps))


def test_scores_and_values_follow_the_rule() -> None:
    torch.manual_seed(0)
    heads = Heads(8, 4, 2, 4)
    q, k = torch.randn(2, 8, 3, 5), torch.randn(2, 4, 6, 5)
    got = scores(q, k, heads, 0.5)
    for m, key in enumerate([0, 1, 0, 1, 2, 3, 2, 3]):
        torch.testing.assert_close(got[:, m], 0.5 * q[:, m] @ k[:, key].mT)
    w, v = torch.randn(2, 4, 3, 6), torch.randn(2, 2, 6, 7)
    out = combine(w, v, heads)
    for h, value in enumerate([0, 0, 1, 1]):
        torch.testing.assert_close(out[:, h], w[:, h] @ v[:, value])
    assert torch.equal(per_map(v, 4)[:, 1], v[:, 0])


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((4, 3, 3, 4), "found 4 and 3"),
        ((4, 2, 4, 4), "key heads must be a multiple of the value heads"),
        ((4, 4, 4, 3), "query heads must be a multiple of the output heads: found 4 and 3"),
        ((4, 4, 2, 4), "maps of an output head must be a multiple of a value's key heads"),
        ((4, 0, 0, 4), "found 4 and 0"),
    ],
)
def test_impossible_counts_say_why(counts: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(SoftmapError, match=message) as error:
        Heads(*counts)
    assert "\n" not in str(error.value)


def test_maps_of_an_output_take_their_key_heads_in_turn() -> None:
    """Four maps an output over two key heads a value, as diff+diff2 with grouped keys has them."""
    assert Heads(8, 4, 2, 2).key_of_map == [0, 1, 0, 1, 2, 3, 2, 3]
