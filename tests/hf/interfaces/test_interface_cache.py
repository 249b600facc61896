"""``Cache`` and ``CacheLayerMixin``."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interface_table import IDS, complete, refuses, runs, small, words
from transformers.cache_utils import Cache, CacheLayerMixin

from softmap.errors import SoftmapError
from softmap.hf import SoftmapCache

VARIANTS = ["diff+dape", "dcmha(pattern=LG,window=4)", "sas"]


def read(model: Any, tokens: int = 5, record: bool = False) -> SoftmapCache:
    cache = SoftmapCache(model)
    if record:
        cache.activate_past_recording()
    for piece in IDS[:, :tokens].split(2, 1):
        model(piece, past_key_values=cache)
    return cache


def goes_on(model: Any, cache: SoftmapCache, ids: torch.Tensor, seen: int) -> None:
    """What follows is what follows the first ``seen`` tokens of ``ids``."""
    expected = model(ids).logits[:, seen:]
    got = model(ids[:, seen:], past_key_values=cache).logits
    torch.testing.assert_close(got, expected)


def crop(model: Any) -> None:
    cache = read(model, 5, record=True)
    cache.crop(-2)
    assert cache.get_seq_length() == 3
    goes_on(model, cache, IDS, 3)
    cache = read(model, 5, record=True)
    cache.crop(0)
    goes_on(model, cache, IDS, 5)
    refuses(lambda: cache.crop(2), "expected 0 or less, found 2")


def rows(model: Any) -> None:
    cache = read(model)
    cache.reorder_cache(torch.tensor([1, 0]))
    goes_on(model, cache, IDS.flip(0), 5)
    cache = read(model)
    cache.batch_select_indices(torch.tensor([1]))
    goes_on(model, cache, IDS[1:], 5)
    cache = read(model)
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 4
    goes_on(model, cache, IDS.repeat_interleave(2, 0), 5)


def reset(model: Any) -> None:
    cache = read(model, record=True)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.is_recording_past(0)
    goes_on(model, cache, IDS, 0)


def sizes(model: Any) -> None:
    cache = read(model)
    for n, layer in enumerate(cache.layers):
        window = layer.own.window
        kept = 5 if window is None else min(5, window - 1 + layer.own.halo)
        assert cache.get_mask_sizes(2, n) == (kept + 2, 5 - kept)
        assert cache.get_max_length(n) == (-1 if window is None else window)
        assert layer.keys.shape[2] == layer.values.shape[2] == kept


def state(model: Any) -> None:
    cache = SoftmapCache(model)
    assert not cache.is_initialized and cache.batch_size == -1 and cache.get_seq_length() == 0
    cache = read(model)
    assert cache.is_initialized and cache.batch_size == 2 and cache.get_query_offset() == 5
    assert not cache.is_compileable and not any(cache.is_linear) and not any(cache.is_dummy)
    assert cache.is_sliding == [layer.own.window is not None for layer in cache.layers]
    assert cache.is_croppable == all(layer.own.keeps_all for layer in cache.layers)
    assert read(model, record=True).is_croppable
    assert len(cache) == 2 and "5 tokens" in repr(cache)


HONOURED: dict[str, Callable] = {
    **dict.fromkeys(["crop", "activate_past_recording", "is_recording_past"], crop),
    **dict.fromkeys(["reorder_cache", "batch_select_indices", "batch_repeat_interleave"], rows),
    "reset": reset,
    **dict.fromkeys(["get_mask_sizes", "get_max_length"], sizes),
    **dict.fromkeys(
        words(
            "get_seq_length get_query_offset batch_size is_compileable is_croppable "
            "is_dummy is_initialized is_linear is_sliding"
        ),
        state,
    ),
}
ONE = torch.zeros(1, 4, 1, 4)
REFUSED: dict[str, Callable[[SoftmapCache], Any]] = {
    "update": lambda c: c.update(ONE, ONE, 0),
    "early_initialization": lambda c: SoftmapCache.early_initialization(
        c, 1, 4, 4, ONE.dtype, "cpu"
    ),  # type: ignore[arg-type]
    "lazy_initialization": lambda c: c.layers[0].lazy_initialization(ONE, ONE),
    "offload": lambda c: c.offload(0, only_non_sliding=False),
    "prefetch": lambda c: c.layers[0].prefetch(),
    "update_conv_state": lambda c: c.update_conv_state(ONE, 0),
    "update_recurrent_state": lambda c: c.update_recurrent_state(ONE, 0),
    "update_indexer": lambda c: c.update_indexer(ONE, 0),
    "get_conv_state": lambda c: c.get_conv_state(0),
    "get_recurrent_state": lambda c: c.get_recurrent_state(0),
    "has_previous_state": lambda c: c.has_previous_state(0),
    "__iter__": lambda c: list(c),  # type: ignore[call-overload]
}
UNCONCERNED = {"supports_early_init": "true, so that early_initialization is refused, not skipped"}


def test_every_name_is_decided() -> None:
    names = {n for c in (Cache, CacheLayerMixin) for n in dir(c) if not n.startswith("_")}
    complete(names, HONOURED, REFUSED, UNCONCERNED)


@pytest.mark.parametrize("check", sorted(set(HONOURED.values()), key=lambda f: f.__name__))
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_honoured(check: Callable, variant: str) -> None:
    check(small(variant))


@runs(REFUSED)
def test_refused(name: str) -> None:
    refuses(lambda: REFUSED[name](SoftmapCache(small())))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
@torch.no_grad()
def test_copies_go_their_own_way(variant: str, again: Callable) -> None:
    """A prompt's cache, copied for each of its continuations."""
    model = small(variant)
    cache = read(model)
    other = again(cache)
    goes_on(model, other, IDS, 5)
    goes_on(model, cache, torch.cat([IDS[:, :5], IDS[:, :3]], 1), 5)
    held = {id(t) for _, t in other.own[0].tensors()}
    assert not held & {id(t) for _, t in cache.own[0].tensors()}


@torch.no_grad()
def test_a_bounded_cache_that_records_nothing_cannot_go_back() -> None:
    cache = read(small("dcmha(pattern=LG,window=4)"))
    with pytest.raises(SoftmapError, match=r"cropped from 5 to 3 .*activate_past_recording\(\)"):
        cache.crop(-2)


@torch.no_grad()
def test_more_than_all_is_all() -> None:
    model = small()
    cache = read(model)
    cache.crop(-9)
    assert cache.get_seq_length() == 0
    goes_on(model, cache, IDS, 0)
