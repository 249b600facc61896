"""The backward kernels launched, and the gradients put into the shapes of what they belong to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmap.ops.triton import backward as kernels
from softmap.ops.triton.arguments import Grads
from softmap.ops.triton.common import bundle
from softmap.ops.triton.configs import Config
from softmap.ops.triton.launch import (
    accumulator,
    chains,
    constants_of,
    edits,
    grid_of,
    launch_sized,
    mask,
)
from softmap.ops.triton.plan import FIXED, Spec, named
from softmap.ops.triton.sums import Sums


class Backward:
    """One backward pass. needs: which of the flat tensors a gradient is wanted of."""

    def __init__(
        self, grad: Tensor, o: Tensor, lse: Tensor, flat: list[Tensor], spec: Spec
    ) -> None:
        self.flat, self.spec, self.t = flat, spec, named(flat)
        self.o, self.lse, self.delta = o, lse, torch.empty_like(lse)
        self.grad = grad.to(self.t["v"].dtype)
        (self.B, self.H, self.T, self.d), self.S = self.t["q"].shape, self.t["k"].shape[2]
        self.dv = self.t["v"].shape[3]

    def run(self, needs: list[bool]) -> list[Tensor]:
        """Returns the gradients that are needed, in order, each in its tensor's shape and dtype."""
        sums = Sums(self.flat, self.spec, needs)
        found = {0: self.rows(sums.stages)}
        if needs[1] or needs[2] or self._wants_keys(needs):
            found[1], found[2] = self.keys(sums.stages)
        found |= sums.gradients()
        wanted = [n for n, need in enumerate(needs) if need]
        return [shaped(found[n], self.flat[n]).to(self.flat[n].dtype) for n in wanted]

    def _wants_keys(self, needs: list[bool]) -> bool:
        links = self.spec.scores + self.spec.weights
        kinds = [kind for link in links for _, kind in link.tensors]
        wanted = zip(needs[len(FIXED) :], kinds, strict=True)
        return any(need and kind == "key" for need, kind in wanted)

    def rows(self, grads: Grads) -> Tensor:
        """Returns dq; stores delta and adds up gradients of tensors of queries and of the layer."""
        sizes, constants = constants_of("rows", self.spec, self.t)
        kept = constants["DP"] == constants["DC"]
        dq = accumulator((self.B, self.H, self.T, self.d), self.t["q"].dtype, kept, self.lse)
        self._launch(
            kernels.rows, grid_of(self.T, sizes.rows, self.B, self.spec), sizes, constants, grads,
            bundle(self.o), bundle(self.grad), *self._statistics(), bundle(dq), *mask(self.t),
        )  # fmt: skip
        return dq

    def keys(self, grads: Grads) -> tuple[Tensor, Tensor]:
        """Returns dk and dv; adds up the gradients of tensors of keys. Maps that share a key head
        write one each, in float32.
        """
        sizes, constants = constants_of("keys", self.spec, self.t)
        maps, keys, values, _ = self.spec.heads
        outputs = self.spec.outputs
        kind = self.t["k"].dtype if maps == keys else torch.float32
        kept = constants["DP"] == constants["DC"]
        dk = accumulator((self.B, maps, self.S, self.d), kind, kept, self.lse)
        kind = self.t["v"].dtype if outputs == values else torch.float32
        kept = constants["VP"] == constants["VC"]
        dv = accumulator((self.B, outputs, self.S, self.dv), kind, kept, self.lse)
        self._launch(
            kernels.keys, grid_of(self.S, sizes.keys, self.B, self.spec), sizes, constants, grads,
            bundle(self.grad), *self._statistics(), bundle(dk), bundle(dv), mask(self.t)[0],
        )  # fmt: skip
        if outputs != values:
            dv = dv.view(self.B, values, -1, self.S, self.dv).sum(2)
        return self._per_key_head(dk), dv

    def _per_key_head(self, dk: Tensor) -> Tensor:
        """Returns dk added up over the maps that read one key head, as in ``ops.heads.Heads``."""
        maps, keys, values, outputs = self.spec.heads
        if maps == keys:
            return dk
        r, c, group = maps // outputs, keys // values, outputs // values
        parts = dk.view(self.B, values, group, r // c, c, self.S, self.d)
        return parts.sum((2, 3)).view(self.B, keys, self.S, self.d)

    def _statistics(self) -> tuple[Any, Any]:
        return bundle(self.lse), bundle(self.delta)

    def _launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        sizes: Config,
        constants: dict[str, Any],
        grads: Any,
        *between: Any,
    ) -> None:
        scores, weights = chains(self.spec, self.t, self.flat, grads)
        launch_sized(
            kernel, grid, sizes, *(bundle(self.t[n]) for n in "qkv"), *between, scores.args,
            weights.args, scores.grads, weights.grads, self.T, self.S,
            self.spec.scale, **constants, **edits(scores, "SCORE", True),
            **edits(weights, "WEIGHT", True),
        )  # fmt: skip


def shaped(grad: Tensor, like: Tensor) -> Tensor:
    """Returns a gradient added up over the copies of the programs, or over the sequences that share
    a tensor.
    """
    if grad.shape == like.shape:
        return grad
    return grad.sum(0, keepdim=grad.ndim == like.ndim).view(like.shape)


def backward(
    grad: Tensor, o: Tensor, lse: Tensor, flat: list[Tensor], spec: Spec, needs: list[bool]
) -> list[Tensor]:
    """Returns the gradients of the flat tensors that ``needs`` names, in order."""
    return Backward(grad, o, lse, flat, spec).run(needs)
