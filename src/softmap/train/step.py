"""One optimiser update, the same on one device and on many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.train import rng
from softmap.train.optim import adamw
from softmap.train.options import Options
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
    options: Options,
    parallel: Parallel,
) -> tuple[float, float]:
    """Accumulates gradients over micro-batches, clips, updates; returns (loss, gradient norm).

    The loss is the mean over the batch's targets in nats, whatever the micro-batches; the norm is
    that before clipping. If either is not finite no update is made: the caller decides.
    Memory is that of one micro-batch of ``options.rows`` sequences.
    """
    inputs, labels = _checked(batch, options)
    targets = int((labels[:, 1:] != IGNORE).sum())
    if targets == 0:
        raise SoftmapError("batch: expected targets to learn, found only ignored labels")
    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=parallel.device)
    pieces = zip(inputs.split(options.rows), labels.split(options.rows), strict=True)
    for input_ids, piece in pieces:
        weight = int((piece[:, 1:] != IGNORE).sum()) / targets
        if weight > 0:  # a mean over no target is NaN
            loss += _backward(forward, input_ids, piece, weight, options, parallel)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, options.clip or math.inf)
    # Both scalars in one transfer: the only wait for the device in a step.
    values = torch.stack([parallel.all_reduce_mean(loss), norm.to(loss.dtype)]).tolist()
    if all(map(math.isfinite, values)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return values[0], values[1]


def warm_up(
    forward: Callable[..., Any],
    model: nn.Module,
    batch: Batch,
    options: Options,
    parallel: Parallel,
) -> None:
    """Pays what only a first step costs, so that no timed step does: kernels are built, libraries
    loaded, graphs compiled, memory and data paged in.

    Forward and backward of each shape of micro-batch that the batch has, and an update of a
    parameter that is thrown away. Parameters, buffers and random states stay as they are.
    """
    inputs, labels = _checked(batch, options)
    pieces = zip(inputs.split(options.rows), labels.split(options.rows), strict=True)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with rng.preserved():
        for ids, piece in {len(ids): (ids, piece) for ids, piece in pieces}.values():
            _backward(forward, ids, piece, 1.0, options, parallel)
        idle = nn.Linear(1, 1, device=parallel.device)
    model.zero_grad(set_to_none=True)
    for buffer, before in buffers:
        buffer.data.copy_(before)
    idle(torch.ones(1, 1, device=parallel.device)).sum().backward()
    nn.utils.clip_grad_norm_(idle.parameters(), 1.0)
    adamw(idle, lr=0.0, weight_decay=0.0, betas=options.betas).step()


def _backward(
    forward: Callable[..., Any],
    input_ids: Tensor,
    labels: Tensor,
    weight: float,
    options: Options,
    parallel: Parallel,
) -> Tensor:
    """Adds the gradients of ``weight`` times the piece's mean loss; returns that product."""
    device = parallel.device
    # Shifted here, not by the model: it then sees `context` tokens, not an odd context + 1.
    inputs, targets = input_ids[:, :-1].to(device), labels[:, 1:].contiguous().to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        output = forward(input_ids=inputs, labels=targets, shift_labels=targets)
    loss = output.loss.float() * weight
    loss.backward()
    return loss.detach()


def _checked(batch: Batch, options: Options) -> tuple[Tensor, Tensor]:
    inputs, labels = batch if isinstance(batch, tuple) else (batch, batch)
    expected = (options.batch_size, options.context + 1)
    for name, tensor in (("token ids", inputs), ("labels", labels)):
        if tuple(tensor.shape) != expected or tensor.dtype != torch.int64:
            raise SoftmapError(
                f"batch: expected {name} int64 of shape {expected} (batch_size, context + 1), "
                f"found {str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"
            )
    return inputs, labels
