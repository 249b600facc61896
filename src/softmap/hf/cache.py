"""The cache that ``generate`` carries: one :class:`softmap.nn.LayerCache` a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from softmap.errors import SoftmapError
from softmap.nn import Decoder, LayerCache


class SoftmapCacheLayer(CacheLayerMixin):
    """Adapts a layer's cache to the methods that transformers calls. The model fills it itself."""

    is_compileable = False
    is_croppable = True

    def __init__(self, own: LayerCache) -> None:
        super().__init__()
        self.own = own
        self.is_sliding = own.window is not None
        self.empty = own.empty_copy

    # transformers reads these two names in places; they are views of what we hold.
    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        return self.own.k

    @keys.setter
    def keys(self, value: Any) -> None: ...

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        return self.own.v

    @values.setter
    def values(self, value: Any) -> None: ...

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise SoftmapError("a SoftmapCache is filled by a softmap model, not by update()")

    def update(self, key_states: Tensor, value_states: Tensor, *a: Any, **k: Any) -> Any:
        raise SoftmapError("a SoftmapCache is filled by a softmap model, not by update()")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.own.seen + query_length, 0

    def get_seq_length(self) -> int:
        return self.own.seen

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.own = self.empty()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.own.select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.own.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.own.select(indices)

    def activate_past_recording(self) -> None:
        self.own.record()

    def crop(self, tokens_to_remove: int) -> None:
        self.own.crop(self.own.seen - abs(tokens_to_remove))


class SoftmapCache(Cache):
    """K, V and exactly the per-key tensors that the variant declares; windows bound it."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(layers=[SoftmapCacheLayer(c) for c in decoder.new_caches()])

    @property
    def own(self) -> list[LayerCache]:
        """The layers' caches, as :class:`softmap.nn.Decoder` takes them."""
        return [layer.own for layer in self.layers]  # type: ignore[union-attr]
