from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from softmap.data import order
from softmap.errors import SoftmapError

TEXT = np.arange(1000, dtype=np.uint16)  # each token tells its own position


def starts(steps: range, seed: int = 0, batch_size: int = 4, context: int = 10) -> np.ndarray:
    batches = [
        order.batch(TEXT, seed=seed, step=step, batch_size=batch_size, context=context)
        for step in steps
    ]
    return np.concatenate(batches)[:, 0]


def test_rows_are_stretches_of_the_text() -> None:
    rows = order.batch(TEXT, seed=0, step=3, batch_size=4, context=10)
    assert rows.shape == (4, 11)
    assert rows.dtype == np.int64
    assert (np.diff(rows, axis=1) % 1000 == 1).all()


def test_an_epoch_visits_every_target_once() -> None:
    # 1000 tokens hold 100 windows of 10: 25 batches of 4.
    rows = [order.batch(TEXT, seed=5, step=s, batch_size=4, context=10) for s in range(25)]
    assert sorted(np.concatenate(rows)[:, 1:].reshape(-1)) == list(range(1000))


def test_a_ragged_epoch_visits_no_target_twice() -> None:
    text = TEXT[:997]  # 99 windows of 10, 7 tokens left over
    rows = [order.batch(text, seed=5, step=s, batch_size=3, context=10) for s in range(33)]
    targets = np.concatenate(rows)[:, 1:].reshape(-1)
    assert len(set(targets)) == len(targets) == 990


def test_batches_run_on_into_the_next_epoch() -> None:
    # 100 windows in batches of 8: batch 12 holds the last 4 of epoch 0 and the first 4 of epoch 1.
    by_eight, by_four = starts(range(50), batch_size=8), starts(range(100), batch_size=4)
    assert (by_eight == by_four).all()
    first, second = by_eight[:100], by_eight[100:200]
    assert len(set(first)) == len(set(second)) == 100
    assert set(first) != set(second)  # another offset
    assert len(set(first % 10)) == len(set(second % 10)) == 1


def test_batches_depend_on_seed_and_step_alone() -> None:
    forward = [starts(range(s, s + 1)) for s in range(30)]
    order._epoch.cache_clear()
    backward = [starts(range(s, s + 1)) for s in reversed(range(30))]
    assert (np.array(forward) == np.array(backward[::-1])).all()
    assert (starts(range(30)) != starts(range(30), seed=1)).any()
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    starts(range(3), seed=9)
    assert (np.random.get_state()[1] == state).all()


def test_the_smallest_text_is_one_window() -> None:
    rows = order.batch(TEXT[:11], seed=0, step=0, batch_size=2, context=10)
    assert (np.sort(rows[:, :10]) < 11).all()
    with pytest.raises(SoftmapError, match="context 10 is longer than the text: it needs 11"):
        order.batch(TEXT[:10], seed=0, step=0, batch_size=1, context=10)


def test_memory_maps_are_read_and_not_changed(tmp_path: object) -> None:
    TEXT.astype("<u4").tofile(f"{tmp_path}/t.bin")
    mapped = np.memmap(f"{tmp_path}/t.bin", "<u4", "r")
    rows = order.batch(mapped, seed=0, step=0, batch_size=4, context=10)
    assert (rows == order.batch(TEXT, seed=0, step=0, batch_size=4, context=10)).all()
    rows[:] = 0
    assert type(rows) is np.ndarray or not isinstance(rows.base, np.memmap)
    assert mapped[5] == 5


@pytest.mark.parametrize("bad", [{"seed": -1}, {"step": -1}, {"batch_size": 0}, {"context": 0}])
def test_bad_arguments(bad: dict[str, int]) -> None:
    with pytest.raises(SoftmapError, match=r"-1|0"):
        order.batch(TEXT, **({"seed": 0, "step": 0, "batch_size": 1, "context": 5} | bad))


def test_windows_are_spread_evenly_and_share_no_target() -> None:
    # (1000 - 1) // 10 = 99 windows fit; of them numbers 0, 24, 49, 74.
    rows = order.windows(TEXT, 10, 4)
    assert rows[:, 0].tolist() == [0, 240, 490, 740]
    assert rows.shape == (4, 11)
    assert (np.diff(rows, axis=1) == 1).all()
    everything = order.windows(TEXT, 10)
    assert everything.shape == (99, 11)
    assert (order.windows(TEXT, 10, 500) == everything).all()
    assert all(a[-1] == b[0] for a, b in pairwise(everything))
    assert order.windows(TEXT[:11], 10).tolist() == [list(range(11))]


def test_windows_of_too_little() -> None:
    with pytest.raises(SoftmapError, match="the held-out text has 10"):
        order.windows(TEXT[:10], 10, 4)
    with pytest.raises(SoftmapError, match="at least 1, found 0"):
        order.windows(TEXT, 10, 0)


def test_require_names_what_is_needed() -> None:
    order.require(4097, 256, 16)
    with pytest.raises(SoftmapError, match="256 x batch 16 needs 4097 tokens, the corpus has 4096"):
        order.require(4096, 256, 16)
    with pytest.raises(SoftmapError, match="needs 257 tokens, the corpus has 256"):
        order.require(256, 256, 16)
