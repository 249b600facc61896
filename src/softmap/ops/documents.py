"""Packed documents: the indices at which each token's own document begins and ends."""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.errors import SoftmapError

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def starts_of(documents: Tensor, batch: int, keys: int, *, wait: bool = False) -> Tensor:
    """Returns the index of the first token of each token's document, (b, S) int64, b = 1 or B.

    Args:
        documents: (B, S) or (1, S) integers; the tokens of a document are neighbours.
        batch, keys: B and S.
        wait: also check documents on a GPU, which makes the CPU wait.

    Raises ``ValueError`` for another shape or dtype, and for a document that is in two pieces.
    """
    found = f"found {tuple(documents.shape)} of {documents.dtype}"
    if documents.dtype not in INTEGERS:
        raise SoftmapError(f"documents must be integers, the document of each key, {found}")
    if documents.ndim != 2 or documents.shape[0] not in (1, batch) or documents.shape[1] != keys:
        raise SoftmapError(
            f"documents must be (batch, keys) = ({batch}, {keys}) or (1, {keys}), {found}"
        )
    if can_look(documents, wait):
        _check_neighbours(documents)
    places = torch.arange(keys, device=documents.device)
    return (places * _begins(documents)).cummax(1).values


def ends_of(starts: Tensor) -> Tensor:
    """Returns the index after the last token of each token's document, (b, S), from those of
    the first.
    """
    places = torch.arange(starts.shape[1], device=starts.device).expand_as(starts)
    return torch.searchsorted(starts.contiguous(), places.contiguous(), right=True)


def can_look(t: Tensor, wait: bool = False) -> bool:
    """Whether a number of ``t`` can be read at no cost: a GPU would make the CPU wait, a
    compiler would stop, and what ``vmap`` or a tracer passes has no numbers.
    """
    here = t.device.type == "cpu" or (wait and t.device.type != "meta")
    return here and not torch.compiler.is_compiling() and not recorded() and not _traced(t)


def recorded() -> bool:
    """Whether what runs is recorded for other inputs, by ``torch.export`` or
    ``torch.jit.trace``.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _traced(t: Tensor) -> bool:
    modes = torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack()
    return bool(modes) or type(t) not in (Tensor, torch.nn.Parameter)


def _check_neighbours(documents: Tensor) -> None:
    if bool((documents.diff(dim=1) >= 0).all()):
        return
    again = _begins(documents.sort(1).values).sum(1) < _begins(documents).sum(1)
    if bool(again.any()):
        raise SoftmapError(
            "the tokens of a document must be neighbours, found a number of documents that comes "
            f"back in sequence {int(again.long().argmax())}"
        )


def _begins(documents: Tensor) -> Tensor:
    """Returns True at the first token of each run of equal numbers, (b, S)."""
    first = torch.arange(documents.shape[1], device=documents.device) == 0
    return first | (documents != documents.roll(1, 1))
