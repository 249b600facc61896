"""The loss on held-out text, window by window and position by position."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from softmap.nn.positions import apart


def token_losses(
    model: Any,
    windows: np.ndarray,
    *,
    batch_size: int = 32,
    precision: str = "fp32",
    end: int | None = None,
) -> np.ndarray:
    """Returns next-token losses in nats, float32 (windows, context).

    Args:
        windows: int64 (windows, context + 1); position t is scored on predicting token t + 1.
        precision: ``"bf16"`` runs the model under autocast; losses are always computed in float32.
        end: the token between documents, each of which is then read by itself.

    The model is left in the mode (train or eval) that it was in.
    """
    device = next(model.parameters()).device
    with evaluating(model), autocast(device, precision):
        parts = [_losses(model, batch.to(device), end) for batch in _batches(windows, batch_size)]
    return np.concatenate(parts)


def mean_and_stderr(losses: np.ndarray) -> tuple[float, float | None]:
    """Returns the mean loss and its standard error over windows, since tokens of a window are
    not independent.

    Args:
        losses: (windows, context). One window has no standard error: None.
    """
    means = losses.astype(np.float64).mean(axis=1)
    stderr = float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else None
    return float(means.mean()), stderr


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Switch the model to eval mode without gradients for the block; its mode is restored
    afterwards.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Returns bfloat16 autocast for ``"bf16"``, and no autocast for ``"fp32"``."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def _batches(windows: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(windows), batch_size):
        yield torch.from_numpy(np.ascontiguousarray(windows[start : start + batch_size]))


def _losses(model: Any, tokens: torch.Tensor, end: int | None) -> np.ndarray:
    ids = tokens[:, :-1]
    logits = model(input_ids=ids, use_cache=False, **apart(ids, end)).logits.float()
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    result: np.ndarray = losses.view(len(tokens), -1).cpu().numpy()
    return result
