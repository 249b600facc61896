"""Signal propagation: how similar tokens become with depth, and how far gradients reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from softmap.evals.question import Metric, Picture, Row, Setting, Suite, row
from softmap.evals.subject import Subject


@dataclass(frozen=True)
class Signal(Suite):
    """Windows of held-out text. For the states between blocks: mean cosine similarity of two
    different tokens of a window (0: all directions, 1: one), and the norm of the loss's
    gradient, relative to that at the embeddings.
    """

    windows: int = 8

    name = "signal"
    title = "Signal propagation"
    asks = "Do tokens stay distinct with depth, and do gradients reach every layer equally?"
    reads_text = True
    least_context = 4
    metrics = (
        Metric("similarity", "Mean cosine similarity of tokens", "", "lower", 0.02),
        Metric("gradient", "Gradient norm over that at the embeddings", "", "", 0.05),
    )
    pictures = (
        Picture("similarity", "layer", "Layer (after block)", "0: the embeddings."),
        Picture("gradient", "layer", "Layer (after block)", "1: as large as at the embeddings."),
    )

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, windows=2)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields ``similarity`` and ``gradient`` of each instance."""
        windows = setting.heldout().windows(subject.tokenizer, setting.context, self.windows)
        for item, window in enumerate(windows):
            states, norms = propagated(subject, window)
            for layer, (state, norm) in enumerate(zip(states, norms, strict=True)):
                yield row("similarity", item, similarity(state), layer=layer)
                yield row("gradient", item, norm / max(norms[0], 1e-30), layer=layer)


def similarity(state: Tensor) -> float:
    """Returns the mean cosine similarity of two different rows of (T, D)."""
    x = torch.nn.functional.normalize(state.double(), dim=-1)
    count = len(x)
    return float((x.sum(0).square().sum() - x.square().sum()) / (count * (count - 1)))


def propagated(subject: Subject, window: np.ndarray) -> tuple[list[Tensor], list[float]]:
    """Returns the states (T, D) before, between and after the blocks, and their gradients' norms.

    The gradients are those of the window's mean loss.
    """
    ids = torch.as_tensor(window[None], device=subject.device)
    model = subject.model.eval()
    with torch.enable_grad():
        out = model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=True)
        loss = torch.nn.functional.cross_entropy(out.logits[0].float(), ids[0, 1:])
        states = list(out.hidden_states)
        grads = torch.autograd.grad(loss, states, allow_unused=True)
    norms = [0.0 if grad is None else float(grad.float().norm()) for grad in grads]
    return [state[0].detach().float() for state in states], norms


SUITE = Signal
