"""``generate`` with softmap's cache, and what it refuses."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from softmap.errors import SoftmapError

_NOT_GENERATED = {
    "cache_config": "its cache grows by itself",
    "max_cache_len": "its cache grows by itself",
    "compile_config": "its cache grows, and a compiled step wants one of a fixed size",
    "assistant_early_exit": "all layers run",
}


class Generates:
    """A mixin for language models that comes before ``GenerationMixin``; the base model has
    ``new_cache()`` and ``adopted(past_key_values)``.
    """

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, *args: Any, **kwargs: Any
    ) -> Any:
        """Give ``generate`` softmap's cache instead of a plain one."""
        kind = generation_config.cache_implementation
        if kind not in (None, "dynamic"):
            raise SoftmapError(f"cache_implementation must be dynamic for softmap, found {kind!r}")
        for name, why in _NOT_GENERATED.items():
            if getattr(generation_config, name, None) is not None:
                raise SoftmapError(f"{name} must be None for softmap: {why}")
        # An assistant may draft the padding token; transformers derives the mask from the draft.
        if not generation_config.is_assistant:
            _check_last(model_kwargs.get("attention_mask"))
        model = self.base_model  # type: ignore[attr-defined]
        given = model.adopted(model_kwargs.get("past_key_values"))
        if given is not None:
            given._is_user_defined = True
            model_kwargs["past_key_values"] = given
        elif generation_config.use_cache:
            generation_config.cache_implementation = None
            cache = model_kwargs["past_key_values"] = model.new_cache()
            if generation_config.is_assistant:
                cache.activate_past_recording()
        return None

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Any,
        next_sequence_length: int | None = None,
        inputs_embeds: Tensor | None = None,  # transformers looks for the name
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Returns transformers' inputs; raises ``ValueError`` for a cache that leaves no token to
        read.
        """
        if next_sequence_length is not None and next_sequence_length < 1 <= input_ids.shape[1]:
            tokens = input_ids.shape[1]
            raise SoftmapError(
                "input_ids must hold the tokens of past_key_values and at least one more, found "
                f"{tokens} beside a cache of {tokens - next_sequence_length}"
            )
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length, inputs_embeds=inputs_embeds, **kwargs
        )

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        """Returns None: positions follow from the mask, and need not be checked at every token."""

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ``SoftmapError``: there is no paged cache."""
        raise SoftmapError(
            "continuous batching needs a paged cache of keys and values, which cannot hold what "
            "edits keep of each key: expected generate()"
        )


def _check_last(mask: Tensor | None) -> None:
    """Raise ``ValueError`` where ``generate`` would continue from a padding token."""
    if mask is not None and mask.ndim == 2 and not bool((mask[:, -1:] != 0).all()):
        raise SoftmapError(
            "generate() continues from the last token of every row: expected padding at the left, "
            "found it in the last column of attention_mask"
        )
