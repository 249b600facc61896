"""How one training is laid out over processes: the section ``parallel`` of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from softmap.errors import SoftmapError
from softmap.fields import Checked, Range

Ranks = Annotated[int, Range(1, 2**20)]


@dataclass(frozen=True)
class Layout(Checked):
    """Over W processes (ranks), ``torchrun``'s. On one process all but ``activations`` is moot.

    shard: the ranks, neighbours, that share one copy of the parameters, gradients and optimiser
        states (FSDP2), W / shard copies in all (HSDP). 1: each rank has a whole one (DDP). "all":
        one copy in all.
    context: the ranks, neighbours, that share each sequence, by bands of rows. The W / context
        groups share the batch.
    activations: what a block keeps for its backward pass: "none" is recomputed, all of the
        "block" is, or all but products of matrices and the outputs of attention ("selective").
    timeout: seconds that a rank waits for the others.
    """

    shard: Ranks | Literal["all"] = 1
    context: Ranks = 1
    activations: Literal["none", "block", "selective"] = "none"
    timeout: Annotated[float, Range(1, 10**6)] = 600.0

    def copy_size(self, ranks: int) -> int:
        """Of how many ranks each has a part of the same copy of the parameters."""
        return ranks if self.shard == "all" else self.shard

    def described(self, ranks: int) -> str:
        """For people."""
        size = self.copy_size(ranks)
        share = f", {self.context} share a sequence" if self.context > 1 else ""
        return f"{ranks} processes: {size} share a copy of the parameters{share}"

    def check(self, ranks: int, batch_size: int, context: int) -> None:
        """Raise ``SoftmapError`` for sizes that so many ranks do not divide."""
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
