"""Weights saved before parameters of shape () became (1,), which FSDP2 can shard."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

NAMES = ("c", "multiplier")  # of FIRE


class WithAxis(ConversionOps):
    """A scalar takes the shape (1,) where the model's parameter has it; all else stays as it is."""

    def convert(  # type: ignore[override]
        self, input_dict: dict[str, Any], source_patterns: Any, target_patterns: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Returns the loaded tensor, as (1,) where the file has a scalar and the model does not."""
        (found,) = input_dict.values()
        tensor: Tensor = found[0] if isinstance(found, list) else found
        wanted = kwargs["model"].get_parameter(kwargs["full_layer_name"]).shape
        grown = tensor.ndim == 0 and tuple(wanted) == (1,)
        return {target_patterns[0]: tensor[None] if grown else tensor}

    @property
    def reverse_op(self) -> ConversionOps:
        """Returns the operation for saving, which leaves every tensor as it is."""
        return self


def register() -> None:
    """Register this with transformers, once, for all model classes of the type ``softmap``."""
    converters: list[WeightConverter | WeightRenaming] = [
        WeightConverter(rf"\.{name}", rf"\.{name}", [WithAxis()]) for name in NAMES
    ]
    register_checkpoint_conversion_mapping("softmap", converters, overwrite=True)
