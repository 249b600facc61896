"""Mixins that come before a family's own classes and inform the swapped layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.hf.arguments import (
    LOSS,
    PACKING,
    caching,
    check_places,
    check_rest,
    real_tokens,
    taken,
)
from softmap.hf.decay import teach_trainer
from softmap.hf.generation import Generates
from softmap.hf.packing import documents_of
from softmap.hf.pretrained import StrictFiles
from softmap.hf.swapped.attention import Pass, SwappedAttention
from softmap.hf.swapped.cache import adopted, new_cache
from softmap.hf.swapped.config import check_family
from softmap.hf.swapped.kinds import Family
from softmap.hf.swapped.place import become
from softmap.nn.cache import ONE_DOCUMENT
from softmap.nn.positions import Positions

_IMPLEMENTATIONS = ("eager", "sdpa")


class Swapped(StrictFiles):
    """A mixin of all these classes: they load completely, and build what their configuration
    names.
    """

    kind: Family

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        become(self, config)

    @property
    def _weight_conversions(self) -> list:
        """Empty when saving: a Trainer that resumes reads the model's own names, where transformers
        would write those of the family's files (GPT-NeoX: another for its head).
        """
        return []

    @_weight_conversions.setter
    def _weight_conversions(self, given: Any) -> None:
        """What ``from_pretrained`` has renamed is forgotten."""

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the loss divides by ``num_items_in_batch``. A ``Trainer`` asks when it is
        created, and then learns softmap's rule of weight decay.
        """
        teach_trainer(SwappedAttention)
        return True

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: Any, *args: Any, **kwargs: Any
    ) -> str:
        """Returns an implementation for the layers that are not swapped; it must take masks that
        softmap can share.
        """
        check_implementation(attn_implementation)
        return super()._check_and_adjust_attn_implementation(  # type: ignore[misc,no-any-return]
            attn_implementation, *args, **kwargs
        )


class SwappedBase(Swapped):
    """A mixin before a family's base model: it passes padding, documents and the cache to the
    swapped layers, and the same to the others in their own terms.
    """

    def swapped_layers(self) -> dict[int, SwappedAttention]:
        """Returns the attention of the swapped layers by their index."""
        found = {n: getattr(block, self.kind.attention) for n, block in enumerate(self.layers)}  # type: ignore[attr-defined]
        return {n: own for n, own in found.items() if isinstance(own, SwappedAttention)}

    def new_cache(self) -> Any:
        """Returns an empty cache for this model."""
        return new_cache(self)

    def adopted(self, given: Any) -> Any:
        """Returns ``past_key_values`` as a cache of this model."""
        return adopted(given, self)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        documents: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Any = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Returns what the family's own does; masks, packed documents, caches and refusals are
        those of [`softmap.hf.SoftmapModel`][].
        """
        check_family(self.config)  # type: ignore[attr-defined]  # it may have been changed
        packing = taken(kwargs, PACKING)
        taken(kwargs, LOSS)  # the head has read them
        check_rest(kwargs, self.forward)
        tokens = _tokens(input_ids, inputs_embeds)
        mask, cache = real_tokens(attention_mask), self.adopted(past_key_values)
        seen = 0 if cache is None else cache.get_seq_length()
        check_places(cache_position, seen, tokens.shape[1])
        documents = documents_of(position_ids, mask, seen, documents, packing, tokens)
        if caching(self, use_cache, documents, cache) and cache is None:
            cache = self.new_cache()
        at = self._positions(tokens, mask, documents, cache)
        maps = self._wants_maps(output_attentions)
        asked = {"output_attentions": maps, "output_hidden_states": output_hidden_states}
        asked |= {"return_dict": return_dict}
        return super().forward(  # type: ignore[misc]
            input_ids=input_ids,
            attention_mask=self._mask(tokens, mask, documents),
            position_ids=at.last(tokens.shape[1]).cols.clamp(min=0),
            past_key_values=cache,
            inputs_embeds=inputs_embeds,
            use_cache=cache is not None,
            softmap=Pass(at, cache, maps),
            **{name: value for name, value in asked.items() if value is not None},
        )

    def _positions(
        self, tokens: Tensor, mask: Tensor | None, documents: Tensor | None, cache: Any
    ) -> Positions:
        if cache is not None and documents is not None:
            raise SoftmapError(ONE_DOCUMENT)
        seen = None if cache is None else cache.get_seq_length()
        total = (seen or 0) + tokens.shape[1]
        at = Positions.of(total, mask, tokens.device, documents, seen)
        for layer in self.swapped_layers() if cache is not None else ():
            cache.layers[layer].own.check_mask(mask)
            break
        return at

    def _mask(self, tokens: Tensor, mask: Tensor | None, documents: Tensor | None) -> Any:
        """Returns the mask that the layers that are not swapped read."""
        if len(self.swapped_layers()) == len(self.layers):  # type: ignore[attr-defined]
            # A mask with four axes is passed on as it is: no unneeded one of (T, S) is made.
            return torch.empty(1, 1, 1, 1, device=tokens.device)
        if documents is None:
            return mask
        if mask is not None and not bool(mask.all()):
            raise SoftmapError(
                "packed documents with padding need every layer to be swapped: transformers' own "
                "layers read one or the other, found both"
            )
        return None  # they find documents in position_ids where there is no mask

    def _wants_maps(self, asked: bool | None) -> bool:
        maps = bool(self.config.output_attentions if asked is None else asked)  # type: ignore[attr-defined]
        own = self.config._attn_implementation == "eager"  # type: ignore[attr-defined]
        if maps and not own and len(self.swapped_layers()) < len(self.layers):  # type: ignore[attr-defined]
            raise SoftmapError(
                "output_attentions needs attn_implementation='eager' for the layers that are not "
                "swapped: call set_attn_implementation('eager'), found 'sdpa'"
            )
        return maps


class SwappedCausal(Generates, Swapped):
    """A mixin before a family's causal language model."""


def _tokens(input_ids: Any, inputs_embeds: Any) -> Tensor:
    if (input_ids is None) == (inputs_embeds is None):
        raise SoftmapError("expected exactly one of input_ids and inputs_embeds")
    tokens = input_ids if inputs_embeds is None else inputs_embeds
    axes = 2 if inputs_embeds is None else 3
    if not isinstance(tokens, Tensor) or tokens.ndim != axes or not tokens.shape[1]:
        shape = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise SoftmapError(f"expected at least one token of (batch, tokens), found {shape}")
    return tokens


def check_implementation(name: Any) -> None:
    """Raise ``ValueError`` for an attention implementation of transformers with other masks."""
    if name not in (None, *_IMPLEMENTATIONS):
        raise SoftmapError(
            f"attn_implementation of a model with swapped layers must be eager or sdpa (call "
            f"set_attn_implementation first), found {name!r}"
        )
