"""One optimiser update, the same on one device and on many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.nn.positions import apart
from softmap.train import rng
from softmap.train.optim import adamw
from softmap.train.options import TrainingOptions
from softmap.train.parallel import Parallel

IGNORE = -100  # a label that is no target, as in Hugging Face models and torch's cross entropy

Batch = Tensor | tuple[Tensor, Tensor]
"""Token ids (batch_size, context + 1), or a pair (token ids, labels) of that shape in which labels
that are not to be learned are -100. Both of context + 1 tokens: the step shifts the labels."""


def train_step(
    forward: Callable[..., Any],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    lr: float,
    options: TrainingOptions,
    parallel: Parallel,
) -> tuple[float, float]:
    """Accumulate gradients over micro-batches, clip and update; returns (loss, gradient norm).

    Args:
        batch: this rank's sequences.

    The loss is the mean over the targets of all ranks in nats, whatever the micro-batches; the norm
    is that before clipping. If either is not finite no update is made: the caller decides. Memory
    is that of one micro-batch of ``options.rows`` sequences.
    """
    pieces = _pieces(batch, options, parallel)
    own = torch.tensor(sum(piece.asked for piece in pieces))
    if not (targets := int(parallel.sum(own))):
        raise SoftmapError("batch: expected targets to learn, found only ignored labels")
    if parallel.ranks == 1:  # with several ranks each waits for every piece of the others
        pieces = [piece for piece in pieces if piece.asked]
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=parallel.device)
    for piece in pieces:
        parallel.reduce_at_last(forward, piece is pieces[-1])
        loss += _backward(forward, piece, piece.asked / targets, options, parallel)
    norm = _clipped(optimizer, options, parallel)
    # Both scalars in one transfer: the only wait for the device in a step.
    values = torch.stack([parallel.sum(loss), norm.to(loss.dtype)]).tolist()
    if all(map(math.isfinite, values)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return values[0], values[1]


def warm_up(
    forward: Callable[..., Any],
    model: nn.Module,
    batch: Batch,
    options: TrainingOptions,
    parallel: Parallel,
) -> None:
    """Pay all one-time costs before a timed step: kernels are built, libraries loaded, graphs
    compiled, memory and data paged in.

    It runs forward and backward for each shape of micro-batch in the batch, and updates a parameter
    that is discarded. Parameters, buffers and random states stay as they are.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with rng.preserved():
        shapes = {len(piece.ids): piece for piece in _pieces(batch, options, parallel)}
        for piece in shapes.values():
            _backward(forward, piece, 1.0, options, parallel)
        idle = nn.Linear(1, 1, device=parallel.device)
    model.zero_grad(set_to_none=True)
    for buffer, before in buffers:
        buffer.data.copy_(before)
    idle(torch.ones(1, 1, device=parallel.device)).sum().backward()
    nn.utils.clip_grad_norm_(idle.parameters(), 1.0)
    adamw(idle, lr=0.0, weight_decay=0.0, betas=options.betas).step()


class _Piece(NamedTuple):
    """A micro-batch: ids (b, context), and the targets of this rank's rows, (b, n)."""

    ids: Tensor
    targets: Tensor
    asked: int  #: the number of targets that are to be learned


def _pieces(batch: Batch, options: TrainingOptions, parallel: Parallel) -> list[_Piece]:
    ids, labels = _checked(batch, options, parallel)
    # Shifted here, not by the model: it then sees `context` tokens, not an odd context + 1.
    ids, labels = ids[:, :-1], labels[:, 1:]
    if (share := parallel.share(options.context)) is not None:
        labels = share.take(labels)
    pairs = zip(ids.split(options.rows), labels.split(options.rows), strict=True)
    return [_Piece(own, piece, int((piece != IGNORE).sum())) for own, piece in pairs]


def _backward(
    forward: Callable[..., Any],
    piece: _Piece,
    weight: float,
    options: TrainingOptions,
    parallel: Parallel,
) -> Tensor:
    """Add the gradients of ``weight`` times the piece's mean loss; returns that product."""
    device = parallel.device
    ids, targets = piece.ids.to(device), piece.targets.contiguous().to(device)
    if not piece.asked:  # a mean over no target is NaN, so one counts, with weight 0
        targets, weight = targets.clone().index_fill_(1, targets.new_zeros(1), 0), 0.0
    share = parallel.share(options.context)
    given: dict[str, Any] = {"labels": targets} if share is None else {"share": share}
    given |= apart(ids, options.document_end)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        output = forward(input_ids=ids, shift_labels=targets, **given)
    loss = output.loss.float() * weight
    # Gradients are averaged over the ranks, but they are parts of one sum.
    (loss * parallel.ranks).backward()
    return loss.detach()


def _clipped(
    optimizer: torch.optim.Optimizer, options: TrainingOptions, parallel: Parallel
) -> Tensor:
    """Clip the gradients to a norm of ``options.clip``; returns their norm before."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = parallel.whole(nn.utils.get_total_norm(gradients))
    nn.utils.clip_grads_with_norm_(parameters, options.clip or math.inf, norm)
    return norm


def _checked(batch: Batch, options: TrainingOptions, parallel: Parallel) -> tuple[Tensor, Tensor]:
    inputs, labels = batch if isinstance(batch, tuple) else (batch, batch)
    rows = parallel.rows(options.batch_size)
    expected = (rows.stop - rows.start, options.context + 1)
    for name, tensor in (("token ids", inputs), ("labels", labels)):
        if tuple(tensor.shape) != expected or tensor.dtype != torch.int64:
            raise SoftmapError(
                f"batch: expected {name} int64 of shape {expected} (batch_size, context + 1), "
                f"found {str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"
            )
    return inputs, labels
