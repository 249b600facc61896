"""One model class for every variant, with all that transformers expects of it."""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from softmap.errors import SoftmapError
from softmap.hf.cache import SoftmapCache
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.packing import documents_of
from softmap.hf.trust import ModelFiles
from softmap.nn import Decoder


class SoftmapForCausalLM(ModelFiles, PreTrainedModel, GenerationMixin):
    """A decoder with a language-model head.

    Modules initialise themselves, each as its method's paper says; loading is strict.
    """

    config_class = SoftmapConfig
    config: SoftmapConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_cache_class = True

    def __init__(self, config: SoftmapConfig) -> None:
        super().__init__(config)
        self.model = Decoder(config.model_config())
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=self.model.config.embedding_std)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing left to do: constructors have initialised everything."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but a missing, unexpected or mis-shaped weight is an error."""
        wants_info = kwargs.pop("output_loading_info", False)
        # "Ignored" shapes come back in the report instead of as an error that does not name them.
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            loaded: Any = super().from_pretrained(*args, **kwargs)
        except (RuntimeError, OSError, SafetensorError) as error:
            raise SoftmapError(f"{args[0]}: {_one_line(error)}") from error
        model, info = loaded
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            keys = sorted(map(str, info.get(what) or ()))
            if keys:
                raise SoftmapError(
                    f"{args[0]} does not fit a {model.config.variant} model: "
                    f"{len(keys)} {what.replace('_', ' ')}, the first {keys[0]}"
                )
        return (model, info) if wants_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: SoftmapCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        documents: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """input_ids (B, T) to logits (B, T, vocabulary).

        attention_mask (B, S), 1 at real tokens, covers cached tokens too. labels
        (B, T), -100 where not asked, are shifted here. logits_to_keep: the last n
        positions only (0: all), or their indices.
        documents (B, T): the document of each token, where several are packed in a sequence
        (labels then want -100 at the first token of each); not with a cache. position_ids that
        start again at 0, as packing collators give them beside no mask, say the same; otherwise
        position_ids may only repeat what the mask and the documents give.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise SoftmapError("expected exactly one of input_ids and inputs_embeds")
        caches = None if past_key_values is None else _own(past_key_values)
        # Not a named argument: `generate` would then hand over positions of its own reckoning.
        if (position_ids := kwargs.pop("position_ids", None)) is not None:
            seen = caches[0].seen if caches else 0
            documents = documents_of(position_ids, attention_mask, seen, documents)
        if use_cache is None:
            silent = labels is None and documents is None and not self.training
            use_cache = self.config.use_cache and silent
        if use_cache and past_key_values is None:
            past_key_values = SoftmapCache(self.model)
            caches = past_key_values.own
        hidden = self.model(input_ids, attention_mask, caches, inputs_embeds, documents)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        """Give ``generate`` our cache instead of a plain K, V one."""
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic"):
            raise SoftmapError(f"cache_implementation must be dynamic for softmap, found {kind!r}")
        if generation_config.use_cache and model_kwargs.get("past_key_values") is None:
            generation_config.cache_implementation = None
            cache = model_kwargs["past_key_values"] = SoftmapCache(self.model)
            if generation_config.is_assistant:
                cache.activate_past_recording()
        return None


def _own(cache: Any) -> list:
    if not isinstance(cache, SoftmapCache):
        raise SoftmapError(
            f"past_key_values must be a SoftmapCache, which also holds what edits need of each "
            f"key, found {type(cache).__name__}"
        )
    return cache.own


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
