"""What all model classes share: loading, initialisation, checkpointing, what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, initialization

from softmap.errors import SoftmapError
from softmap.hf.configuration import SoftmapConfig
from softmap.hf.decay import teach_trainer
from softmap.hf.trust import ModelFiles
from softmap.nn import Block

HEADS = ("lm_head.", "embed_out.", "score.")  # the second is GPT-NeoX's in files

_NOT_LOADED = {
    "quantization_config": "weights stay as they were saved",
    "tp_plan": "heads that edits mix cannot be split over devices",
    "tp_size": "heads that edits mix cannot be split over devices",
    "distributed_config": "heads that edits mix cannot be split over devices",
    "use_kernels": "its own kernels are chosen by the field impl of the configuration",
    "gguf_file": "weights are read from safetensors",
}


class StrictFiles(ModelFiles):
    """The part of a model class that loads a folder completely or not at all."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load as transformers does, but raise for a missing, unexpected or mis-shaped weight.

        Exempt is the head if another of softmap's classes saved the folder: a missing head is
        initialised, and one that is not needed is left out. ``ignore_mismatched_sizes=True``
        initialises a head of another size.
        """
        name = pretrained_model_name_or_path
        for option, why in _NOT_LOADED.items():
            if kwargs.get(option) not in (None, False):
                raise SoftmapError(f"{option} must be None for softmap: {why}")
        wants_info = kwargs.pop("output_loading_info", False)
        resize = kwargs.pop("ignore_mismatched_sizes", False)
        # "Ignored" shapes come back in the report instead of as an error that does not name them.
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        try:
            loaded: Any = super().from_pretrained(name, *model_args, **kwargs)
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            raise SoftmapError(f"{name}: {error}") from error
        except (RuntimeError, OSError, SafetensorError) as error:
            raise SoftmapError(f"{name}: {error}") from error
        model, info = loaded
        saved_by = model.config.architectures or [cls.__name__]
        excused = HEADS if cls.__name__ not in saved_by else ()
        _check_keys(name, model, "missing", info.get("missing_keys"), excused)
        _check_keys(name, model, "unexpected", info.get("unexpected_keys"), excused)
        sized = HEADS if resize else ()
        _check_keys(name, model, "mismatched", info.get("mismatched_keys"), sized)
        return (model, info) if wants_info else model


class SoftmapPreTrainedModel(StrictFiles, PreTrainedModel):
    """The base of the model classes. Layers initialise themselves as their papers say; loading is
    strict.
    """

    config_class = SoftmapConfig
    config: SoftmapConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_context_parallel = False
    _takes_loss_arguments = True

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise what is added later, a head or more embeddings, from N(0,
        initializer_range).
        """
        if isinstance(module, nn.Linear | nn.Embedding):
            initialization.normal_(module.weight, std=self.config.model_config().embedding_std)

    @property
    def accepts_loss_kwargs(self) -> bool:
        """Whether the loss divides by ``num_items_in_batch``. A ``Trainer`` asks when it is
        created, and then learns softmap's rule of weight decay.
        """
        teach_trainer(SoftmapPreTrainedModel)
        return self._takes_loss_arguments

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: Any, *args: Any, **kwargs: Any
    ) -> str:
        """Returns ``"eager"``, the model's own code, since transformers' kernels cannot edit
        maps.
        """
        if attn_implementation not in (None, "eager"):
            raise SoftmapError(
                "attn_implementation must be 'eager' (softmap chooses its own by the field impl of "
                f"the configuration), found {attn_implementation!r}"
            )
        return "eager"

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Tensor] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        blocks = [m for m in self.modules() if isinstance(m, Block)]
        for n, block in enumerate(blocks):
            block.gradient_checkpointing = enable and n % every_n_layers == 0
            block._gradient_checkpointing_func = gradient_checkpointing_func

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Raises ``SoftmapError``: learned positions have a fixed number."""
        raise SoftmapError("learned positions cannot be resized: set max_position_embeddings")


def _check_keys(
    name: Any, model: PreTrainedModel, what: str, found: Iterable[Any] | None, excused: tuple
) -> None:
    keys = sorted(str(k) for k in found or () if not _name(k).startswith(excused or ("\0",)))
    if keys:
        config: Any = model.config
        raise SoftmapError(
            f"{name} does not fit a {getattr(config, 'variant', config.model_type)} model: "
            f"{len(keys)} {what} keys, the first {keys[0]}"
        )


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])
