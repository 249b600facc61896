"""The interface between the training loop and the machines it runs on: one process, or all of
torchrun's.

[`Parallel.wrap`][] makes a model ready, in one fixed order. The loop, a step and checkpoints use
nothing but the members of [`Parallel`][], which is one process; [`Processes`][] is many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.nn import Block, Share
from softmap.train.activations import checkpoint_activations
from softmap.train.layout import Layout

T = TypeVar("T")


class PeerError(SoftmapError):
    """Raised on a rank where another rank has failed, with that rank's message."""


@dataclass
class Parallel:
    """One process on one device."""

    device: torch.device
    layout: Layout = field(default_factory=Layout)
    rank: int = 0
    ranks: int = 1

    def wrap(self, model: nn.Module, *, compile: bool, precision: str) -> Callable[..., Any]:
        """Returns the forward pass to train with; ``model`` itself is changed where necessary."""
        checkpoint_activations(model, self.layout.activations)
        return torch.compile(model) if compile else model

    def rows(self, batch_size: int) -> slice:
        """Returns the rows of a batch whose sequences this rank reads."""
        return slice(0, batch_size)

    def share(self, tokens: int) -> Share | None:
        """Returns this rank's part of a sequence of ``tokens``; None where sequences are not
        shared.
        """
        return None

    def reduce_at_last(self, forward: Any, last: bool) -> None:
        """Reduce gradients over the ranks in the ``last`` backward pass of a step alone."""

    def sum(self, value: Tensor) -> Tensor:
        """Returns ``value``, summed over the ranks in place."""
        return value

    def largest(self, number: int) -> int:
        """Returns the largest ``number`` of all ranks."""
        return number

    def whole(self, t: Tensor) -> Tensor:
        """Returns the whole tensor, of which each rank may hold a part."""
        return t

    def by_first(self, do: Callable[[], T]) -> T:
        """Returns on every rank what ``do`` returned on the first; a ``SoftmapError`` is raised on
        all.
        """
        return do()

    def together(self, do: Callable[[], T]) -> list[T]:
        """Returns on every rank what ``do`` returned on each; a ``SoftmapError`` on one is raised
        on all.
        """
        return [do()]


@dataclass
class Processes(Parallel):
    """The processes of ``torch.distributed``'s default group, one of which is this one."""

    def __post_init__(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        kind, copy = self.device.type, self.layout.copy_size(self.ranks)
        copies, together = self.ranks // copy, self.layout.context
        self._shards = init_device_mesh(kind, (copies, copy), mesh_dim_names=("copy", "shard"))
        groups = (self.ranks // together, together)
        self._rows = init_device_mesh(kind, groups, mesh_dim_names=("batch", "context"))
        self._shares: dict[int, Share] = {}

    def wrap(self, model: nn.Module, *, compile: bool, precision: str) -> Callable[..., Any]:
        """Returns the forward pass, after setting checkpointed activations, compilation and FSDP2
        or DDP, in this order.
        """
        checkpoint_activations(model, self.layout.activations)
        if compile:
            _compile_blocks(model)
        if self.layout.copy_size(self.ranks) > 1:
            return self._sharded(model, precision)
        return self._replicated(model)

    def _sharded(self, model: nn.Module, precision: str) -> nn.Module:
        """Returns the model sharded by FSDP2, block by block, over the ranks that share one copy
        (HSDP).
        """
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        _check_shapes(model)
        mesh = self._shards if self._shards.shape[0] > 1 else self._shards["shard"]
        # The forward pass runs under autocast as in one process: the residual stream, the
        # embeddings and the head's weights stay in float32; blocks are sent in the dtype of their
        # matrix products.
        low = torch.bfloat16 if precision == "bf16" else None
        wide = None if low is None else torch.float32
        policy = MixedPrecisionPolicy(low, reduce_dtype=wide, cast_forward_inputs=False)
        for block in _blocks(model):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
        return model

    def _replicated(self, model: nn.Module) -> nn.Module:
        """Returns the model in DDP: each rank has all of it, and gradients are reduced as they
        come.
        """
        from torch.nn.parallel import DistributedDataParallel

        # Fixed buffers need no broadcast at each pass; torch 2.13 has another name for the option.
        known = signature(DistributedDataParallel).parameters
        name = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in known)
        given: dict[str, Any] = {name: False}
        if self.device.type == "cuda":
            given["device_ids"] = [self.device]
        return DistributedDataParallel(model, **given)

    def rows(self, batch_size: int) -> slice:
        """Returns the rows of a batch whose sequences this rank reads."""
        count = batch_size // self._rows.shape[0]
        first = self.rank // self.layout.context * count
        return slice(first, first + count)

    def share(self, tokens: int) -> Share | None:
        """Returns this rank's part of a sequence; None where sequences are not shared."""
        if self.layout.context == 1:
            return None
        if tokens not in self._shares:
            self._shares[tokens] = Share.of(self._rows.get_group("context"), tokens)
        return self._shares[tokens]

    def reduce_at_last(self, forward: Any, last: bool) -> None:
        """Reduce gradients over the ranks in the ``last`` backward pass of a step alone."""
        if hasattr(forward, "set_requires_gradient_sync"):
            forward.set_requires_gradient_sync(last)
        else:
            forward.require_backward_grad_sync = last

    def sum(self, value: Tensor) -> Tensor:
        """Returns ``value``, summed over the ranks in place."""
        torch.distributed.all_reduce(value)
        return value

    def largest(self, number: int) -> int:
        """Returns the largest ``number`` of all ranks."""
        value = torch.tensor(number)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return int(value)

    def whole(self, t: Tensor) -> Tensor:
        """Returns the whole tensor, of which each rank may hold a part."""
        found: Tensor = t.full_tensor() if hasattr(t, "full_tensor") else t
        return found

    def by_first(self, do: Callable[[], T]) -> T:
        """Returns what ``do`` returned on the first rank, or raises what it raised there."""
        tried = [_tried(do) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(tried)
        return self._unpacked(0, tried[0])

    def together(self, do: Callable[[], T]) -> list[T]:
        """Returns what ``do`` returned on each rank, or raises what it raised on one."""
        tried: list[Any] = [None] * self.ranks
        torch.distributed.all_gather_object(tried, _tried(do))
        return [self._unpacked(rank, one) for rank, one in enumerate(tried)]

    def _unpacked(self, rank: int, tried: Any) -> Any:
        """Returns the value that a rank has sent, or raises its error."""
        value, error = tried
        if error is not None:
            raise SoftmapError(error) if rank == self.rank else PeerError(error)
        return value


def single_process(model: nn.Module) -> Parallel:
    """Returns this process alone, on the device where ``model`` is."""
    return Parallel(next(model.parameters()).device)


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


def _compile_blocks(model: nn.Module) -> None:
    """Compile each block by itself: what sharding does between blocks must not be traced."""
    for block in _blocks(model):
        block.forward = torch.compile(block.forward)  # type: ignore[method-assign]


def _check_shapes(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.ndim:
            raise SoftmapError(
                f"{name}: a parameter of shape () cannot be sharded: expected shape (1,), or "
                "parallel.shard=1"
            )


def _tried(do: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return do(), None
    except SoftmapError as error:
        return None, str(error)
