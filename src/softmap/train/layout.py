"""How one training is distributed over processes: the section ``parallel`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from softmap.errors import SoftmapError
from softmap.fields import Checked, Range

Ranks = Annotated[int, Range(1, 2**20)]


@dataclass(frozen=True)
class Layout(Checked):
    """The layout over W processes (ranks), torchrun's. With one process only ``activations``
    matters.

    Attributes:
        shard: the number of neighbouring ranks that share one copy of the parameters, gradients and
            optimiser states (FSDP2); there are W / shard copies (HSDP). 1: each rank has a whole
            copy (DDP). "all": there is one copy.
        context: the number of neighbouring ranks that share each sequence, by bands of rows. The W
            / context groups share the batch.
        activations: what is computed again in the backward pass: nothing ("none"), the whole
            "block", or all but matrix products and the outputs of attention ("selective").
        timeout: seconds that a rank waits for the others.
    """

    shard: Ranks | Literal["all"] = 1
    context: Ranks = 1
    activations: Literal["none", "block", "selective"] = "none"
    timeout: Annotated[float, Range(1, 10**6)] = 600.0

    def copy_size(self, ranks: int) -> int:
        """Returns the number of ranks that share one copy of the parameters."""
        return ranks if self.shard == "all" else self.shard

    def described(self, ranks: int) -> str:
        """Returns the layout in words."""
        size = self.copy_size(ranks)
        share = f", {self.context} share a sequence" if self.context > 1 else ""
        return f"{ranks} processes: {size} share a copy of the parameters{share}"

    def check(self, ranks: int, batch_size: int, context: int) -> None:
        """Raise ``SoftmapError`` for sizes that this number of ranks does not divide."""
        for name, size in (("shard", self.copy_size(ranks)), ("context", self.context)):
            if ranks % size:
                raise SoftmapError(
                    f"parallel.{name}: expected a divisor of the {ranks} processes, found {size}"
                )
        sharing = ranks // self.context
        if batch_size % sharing:
            raise SoftmapError(
                f"training.batch_size: expected a multiple of {sharing}, the ranks that share a "
                f"batch, found {batch_size}"
            )
        if self.context > 1 and context < (least := 2 * self.context):
            raise SoftmapError(
                f"model.context: expected at least {least} tokens, two bands for each of the "
                f"{self.context} ranks that share a sequence, found {context}"
            )
