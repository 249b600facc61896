"""The cache that ``generate`` passes on: one [`softmap.nn.LayerCache`][] per layer."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from softmap.errors import SoftmapError
from softmap.nn import LayerCache
from softmap.nn.decoder import Layers


class SoftmapCacheLayer(CacheLayerMixin):
    """Adapts a layer's cache to the methods that transformers calls. Only the model fills it.

    Methods that would insert or move keys and values raise ``ValueError``, since they do not handle
    the tensors that edits keep beside them.
    """

    is_compileable = False

    def __init__(self, own: LayerCache) -> None:
        self.own = own

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.own.seen} tokens)"

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """The keys (B, G, S, d) as a view; None while the cache is empty."""
        return self.own.k

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """The values (B, G', S, d') as a view; None while the cache is empty."""
        return self.own.v

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        """Whether the layer has cached any keys."""
        return self.own.k is not None

    @property
    def is_sliding(self) -> bool:
        """Whether the layer has a window, and so keeps a bounded number of tokens."""
        return self.own.window is not None

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether tokens can be taken back: all are kept, or enough is recorded."""
        return self.own.keeps_all or self.own.recording

    @property
    def record_past(self) -> bool:
        """Whether the layer records what ``crop`` needs."""
        return self.own.recording

    @property
    def batch_size(self) -> int:
        """The number of sequences. Raises ``AttributeError`` while empty, which transformers
        expects.
        """
        if self.own.k is None:
            raise AttributeError("an empty cache has no batch size")
        return self.own.k.shape[0]

    @property
    def dtype(self) -> torch.dtype | None:
        """The keys' dtype; None where nothing is cached."""
        return None if self.own.k is None else self.own.k.dtype

    @property
    def device(self) -> torch.device | None:
        """The keys' device; None where nothing is cached."""
        return None if self.own.k is None else self.own.k.device

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> NoReturn:
        """Raises ``SoftmapError``: only the model fills the cache."""
        raise SoftmapError("a SoftmapCache is filled by a softmap model, not beforehand")

    def update(self, key_states: Tensor, value_states: Tensor, *a: Any, **k: Any) -> NoReturn:
        """Raises ``SoftmapError``: only the model fills the cache."""
        raise SoftmapError("a SoftmapCache is filled by a softmap model, not by update()")

    def offload(self) -> NoReturn:
        """Raises ``SoftmapError``: the cache stays on its model's device."""
        raise SoftmapError("a SoftmapCache stays on its model's device: it cannot be offloaded")

    prefetch = offload

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns how many keys the next ``query_length`` tokens get, and the index of the
        first.
        """
        kept = 0 if self.own.k is None else self.own.k.shape[2]
        return kept + query_length, self.own.seen - kept

    def get_seq_length(self) -> int:
        """Returns the number of tokens that have passed through the layer."""
        return self.own.seen

    def get_max_length(self) -> int:
        """Returns the window, or -1 where the cache grows without bound."""
        return -1 if self.own.window is None else self.own.window

    def reset(self) -> None:
        """Forgets all tokens; whether the layer records stays as it is."""
        recording, self.own = self.own.recording, self.own.empty_copy()
        self.own.recording = recording

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Takes the sequences of ``beam_idx`` (B,), as beam search does."""
        self.own.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each sequence of the batch ``repeats`` times."""
        self.own.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the sequences of ``indices`` alone, in their order."""
        self.own.select(indices)

    def activate_past_recording(self) -> None:
        """Begins to record what ``crop`` needs."""
        self.own.record()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last ``-tokens_to_remove`` tokens; 0 only discards what was recorded. Raises
        ``ValueError`` for a positive number, as transformers does.
        """
        if tokens_to_remove > 0:
            raise SoftmapError(
                "crop() takes minus the number of tokens to remove: expected 0 or less, "
                f"found {tokens_to_remove}"
            )
        self.own.crop(max(0, self.own.seen + tokens_to_remove))


class SoftmapCache(Cache):
    """A cache of K, V and exactly the per-key tensors that the variant declares; windows bound it.

    Args:
        model: a [`softmap.nn.Decoder`][], or a model of transformers' classes.
    """

    max_cache_len = -1  # no limit; PEFT reads it

    def __init__(self, model: Any) -> None:
        decoder = model if isinstance(model, Layers) else model.model
        super().__init__(layers=[SoftmapCacheLayer(c) for c in decoder.new_caches()])

    @property
    def own(self) -> list[LayerCache]:
        """The layers' caches, as [`softmap.nn.Decoder`][] takes them."""
        return [layer.own for layer in self.layers]  # type: ignore[union-attr]


def adopted(given: Any, model: Layers) -> SoftmapCache | None:
    """Returns ``past_key_values`` as a cache of ours: the cache itself, or the prefix of prefix
    tuning.

    A prefix is a ``DynamicCache`` with one key and one value (B, G, P, d) per key head for the
    first P tokens. It has no per-key tensors of edits and no state of a window or a mean, so
    variants with any of these refuse it, and so do those whose values have another shape than their
    keys. Raises ``ValueError`` for any other cache, even an empty one, which would not be filled.
    """
    if given is None:
        return None
    if isinstance(given, SoftmapCache):
        _check_layers(given, model)
        return given
    if not isinstance(given, DynamicCache) or not given.get_seq_length():
        raise SoftmapError(
            f"past_key_values must be a SoftmapCache, which also holds what edits need of each "
            f"key, found {type(given).__name__}"
        )
    cache = SoftmapCache(model)
    if len(given) != len(cache):
        raise SoftmapError(f"the model has {len(cache)} layers, found a prefix for {len(given)}")
    for n, layer in enumerate(model.layers):
        plain = layer.attention.takes_prefix  # type: ignore[union-attr]
        if not plain:
            raise SoftmapError(
                "this variant cannot take a prefix of plain keys and values: its edits keep more "
                "of each key, a window or a mean, or its values are shaped otherwise"
            )
        held: Any = given.layers[n]
        cache.own[n].prefill(held.keys, held.values)
    return cache


def _check_layers(cache: SoftmapCache, model: Layers) -> None:
    """Raise ``ValueError`` for the cache of a model with other layers."""
    fits = len(cache) == len(model.layers) and all(
        layer.attention.can_fill(own)  # type: ignore[union-attr,operator]
        for layer, own in zip(model.layers, cache.own, strict=True)
    )
    if not fits:
        raise SoftmapError(
            f"past_key_values must be of a model with the same layers ({len(model.layers)}, with "
            f"the same edits and windows), found a cache of {len(cache)} layers of another"
        )
