from __future__ import annotations

import math

import numpy as np
import pytest

from softmap.data import synthetic
from softmap.errors import SoftmapError

TASK = synthetic.Recall(pairs=3, queries=2, keys=5, values=7)


def test_layout() -> None:
    ids, labels = TASK.batch(seed=0, step=0, batch_size=50)
    assert ids.shape == labels.shape == (50, TASK.length) == (50, 10)
    keys, values = ids[:, ::2], ids[:, 1::2]
    assert keys.min() >= 0 and keys.max() < 5
    assert values.min() >= 5 and values.max() < TASK.vocab_size == 12
    asked = np.isin(np.arange(10), [7, 9])
    assert (labels[:, ~asked] == -100).all()
    assert (labels[:, asked] == ids[:, asked]).all()


def test_each_query_asks_for_another_pair_that_was_shown() -> None:
    for row in TASK.batch(seed=1, step=2, batch_size=50)[0]:
        pairs = [tuple(pair) for pair in row.reshape(-1, 2).tolist()]
        shown, asked = pairs[:3], pairs[3:]
        assert len({key for key, _ in shown}) == len({value for _, value in shown}) == 3
        assert len(set(asked)) == 2
        assert set(asked) <= set(shown)


def test_pure_in_seed_and_step() -> None:
    def batch(seed: int, step: int) -> list[list[int]]:
        return TASK.batch(seed=seed, step=step, batch_size=4)[0].tolist()

    first = batch(0, 0)
    assert batch(0, 1) != first != batch(1, 0)
    assert batch(0, 0) == first


def test_levels_by_hand() -> None:
    assert TASK.loss_without_attention == math.log(7)
    assert TASK.accuracy_without_attention == 1 / 7
    assert TASK.loss_without_pairing == pytest.approx((math.log(3) + math.log(2)) / 2)
    assert TASK.accuracy_without_pairing == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_the_key_alone_says_nothing_about_the_value() -> None:
    task = synthetic.Recall(pairs=2, queries=2, keys=2, values=3)
    ids, _ = task.batch(seed=0, step=0, batch_size=3000)
    for key in (0, 1):
        for place in (4, 6):
            values = ids[ids[:, place] == key, place + 1]
            counts = np.bincount(values, minlength=5)[2:]
            expected = len(values) / 3
            assert (abs(counts - expected) < 5 * (expected * 2 / 3) ** 0.5).all()


@pytest.mark.parametrize("bad", [{"queries": 9}, {"pairs": 17}, {"queries": 0}, {"values": 7}])
def test_impossible_tasks(bad: dict[str, int]) -> None:
    with pytest.raises(SoftmapError, match="recall needs 1 <= queries <= pairs"):
        synthetic.Recall(**bad)


def test_tiny_text_is_plain_and_fixed() -> None:
    text = synthetic.tiny_text()
    assert text is synthetic.tiny_text()
    assert text.isascii()
    assert 800 < len(text) < 2000
