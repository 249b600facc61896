"""The seam between the loop and the machines it runs on.

The loop asks for nothing else, so a multi-process engine is another class with these members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """What the loop needs of a set of processes."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""

    @property
    def world_size(self) -> int:
        """How many processes share each batch."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def wrap(self, model: nn.Module) -> Callable[..., Any]:
        """The forward pass to train with (sharded, replicated, ...)."""

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes."""


@dataclass(frozen=True)
class SingleProcess:
    """One process, one device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    def wrap(self, model: nn.Module) -> Callable[..., Any]:
        return model

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        return value


def single_process(model: nn.Module) -> SingleProcess:
    """The process that we are, on the device where ``model`` lies."""
    return SingleProcess(next(model.parameters()).device)
