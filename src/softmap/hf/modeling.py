"""The base model and the causal language model: one class each for every variant."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from softmap.errors import SoftmapError
from softmap.hf.arguments import (
    LOSS,
    PACKING,
    caching,
    check_labels,
    check_places,
    check_rest,
    kept,
    real_tokens,
    taken,
)
from softmap.hf.cache import SoftmapCache, adopted
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.generation import Generates
from softmap.hf.packing import documents_of
from softmap.hf.pretrained import SoftmapPreTrainedModel
from softmap.nn import Record, Share
from softmap.nn.decoder import Layers


class SoftmapModel(Layers, SoftmapPreTrainedModel):
    """The decoder without a head: token ids (B, T) to hidden states (B, T, D)."""

    def __init__(self, config: SoftmapConfig) -> None:
        SoftmapPreTrainedModel.__init__(self, config)
        self._build(config.model_config())
        for module in self.modules():
            module._is_hf_initialized = True  # type: ignore[assignment]  # they did it themselves
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Any = None,
        cache_position: Tensor | None = None,
        documents: Tensor | None = None,
        share: Share | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Returns ``last_hidden_state`` (B, T, D), normed, for input_ids (B, T).

        Args:
            attention_mask: (B, S), 1 at real tokens, the cached ones included.
            documents: (B, T) the document of each token, where several are packed; not with a
                cache. What collators give instead is read too: position_ids that start again at 0
                without a mask, ``seq_idx`` (B, T), ``cu_seq_lens_q`` (n + 1,).
            position_ids: otherwise they may only repeat what the mask and the documents give.
            use_cache: None takes the configuration's value, but no cache in training, with
                documents, in torch.export and in torch.jit.trace.
            output_attentions: returns the edited maps as ``attentions``, one (B, H', T, S) per
                layer.
            share: returns only this rank's rows, see ``softmap.nn.Share``; all inputs are of whole
                sequences.
        """
        packing = taken(kwargs, PACKING)
        check_rest(kwargs, self.forward)
        tokens = self._given(input_ids, inputs_embeds)
        attention_mask = real_tokens(attention_mask)
        cache = self.adopted(past_key_values)
        seen = cache.get_seq_length() if cache is not None else 0
        check_places(cache_position, seen, tokens.shape[1])
        documents = documents_of(position_ids, attention_mask, seen, documents, packing, tokens)
        use_cache = False if use_cache is None and share is not None else use_cache
        if caching(self, use_cache, documents, cache) and cache is None:
            cache = self.new_cache()
        maps = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        # 0 selects the first hidden state; only None and False select none.
        states = output_hidden_states is not None and output_hidden_states is not False
        record = Record(wants_maps=bool(maps)) if maps or states else None
        caches = None if cache is None else cache.own
        hidden = self._run(tokens, attention_mask, caches, documents, record, share)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=cache,
            hidden_states=kept(output_hidden_states, record.hidden) if record else None,  # type: ignore[arg-type]
            attentions=tuple(record.maps) if record and maps else None,
        )

    def new_cache(self) -> SoftmapCache:
        """Returns an empty cache for this model."""
        return SoftmapCache(self)

    def adopted(self, given: Any) -> SoftmapCache | None:
        """Returns ``past_key_values`` as a cache of this model."""
        return adopted(given, self)


class SoftmapForCausalLM(Generates, SoftmapPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A decoder with a language-model head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SoftmapConfig) -> None:
        super().__init__(config)
        self.model = SoftmapModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.generation_config.update(**config.generation)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Any = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        documents: Tensor | None = None,
        share: Share | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Returns logits (B, T, vocabulary) for input_ids (B, T); other arguments are those of
        [`SoftmapModel`][].

        Args:
            labels: (B, T), -100 at tokens without a loss; they are shifted here. Packed documents
                need -100 at the first token of each.
            num_items_in_batch: what the sum of the loss is divided by.
            logits_to_keep: the last n positions only (0: all), or their indices.

        With a ``share`` the logits are those of its rows, and ``shift_labels`` of these rows
        replace labels.
        """
        loss_arguments, packing = taken(kwargs, LOSS), taken(kwargs, PACKING)
        check_rest(kwargs, self.forward)
        asked = labels is not None or "shift_labels" in loss_arguments
        check_labels(labels, input_ids, inputs_embeds, logits_to_keep)
        if share is not None and labels is not None:
            raise SoftmapError("labels of a share are its rows' own: expected shift_labels instead")
        if use_cache is None and asked:
            use_cache = False
        outputs = self.model(
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache,
            output_attentions, output_hidden_states, cache_position, documents, share,
            return_dict=True, **packing,
        )  # fmt: skip
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, keep])
        loss = None
        if asked:
            size = self.config.vocab_size
            loss = self.loss_function(logits, labels, vocab_size=size, **loss_arguments)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
