"""The cache of a model with swapped layers: a ``DynamicCache``, some layers of which are ours."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicCache

from softmap.errors import SoftmapError
from softmap.hf.cache import SoftmapCacheLayer
from softmap.nn import LayerCache


class SwappedCacheLayer(SoftmapCacheLayer):
    """A layer's cache that answers transformers as the replaced layer would, since transformers
    makes one mask for several layers.

    Args:
        window: the model's own; the variant's may be narrower.
    """

    def __init__(self, own: LayerCache, window: int | None) -> None:
        super().__init__(own)
        self.model_window = window

    @property
    def is_sliding(self) -> bool:
        """Whether the model's own layer has a window."""
        return self.model_window is not None

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Returns the number of keys that a mask covers, and the place of the first."""
        seen = self.own.seen
        kept = seen if self.model_window is None else min(seen, self.model_window - 1)
        return kept + query_length, seen - kept

    def get_max_length(self) -> int:
        """Returns the window of the model's own layer, or -1 where it has none."""
        return -1 if self.model_window is None else self.model_window


def new_cache(base: Any) -> DynamicCache:
    """Returns an empty cache for a base model with swapped layers."""
    cache = DynamicCache(config=base.config)
    for layer, swapped in base.swapped_layers().items():
        own = swapped.attention.new_cache()
        cache.layers[layer] = SwappedCacheLayer(own, base.kind.window(base.config, layer))
    return cache


def adopted(given: Any, base: Any) -> DynamicCache | None:
    """Returns ``past_key_values`` as a cache for a base model; an empty ``DynamicCache`` becomes
    one.

    Raises ``ValueError`` for a cache of another class, and for one that another model has filled:
    it lacks the edits' tensors of each key.
    """
    if given is None:
        return None
    if type(given) is not DynamicCache or given.offloading:
        raise SoftmapError(
            "past_key_values must be a DynamicCache that stays where it is, for a model with "
            f"swapped layers, found {'an offloaded' if type(given) is DynamicCache else 'a'} "
            f"{type(given).__name__}"
        )
    ours = [isinstance(layer, SwappedCacheLayer) for layer in given.layers]
    if not any(ours) and not given.get_seq_length():
        _become(given, new_cache(base))
    elif not _fits(given, base):
        raise SoftmapError(
            "past_key_values must be empty or filled by a model with the same swapped layers, "
            f"found {given.get_seq_length()} tokens of another"
        )
    return given


def _become(given: DynamicCache, fresh: DynamicCache) -> None:
    if any(getattr(layer, "record_past", False) for layer in given.layers):
        fresh.activate_past_recording()
    given.layers = fresh.layers
    given.layer_class_to_replicate = None


def _fits(cache: DynamicCache, base: Any) -> bool:
    swapped = base.swapped_layers()
    if len(cache.layers) != base.config.num_hidden_layers:
        return False
    for n, layer in enumerate(cache.layers):
        if isinstance(layer, SwappedCacheLayer) != (n in swapped):
            return False
        if n in swapped and not swapped[n].attention.can_fill(layer.own):  # type: ignore[union-attr]
            return False
    return True
