"""The model's edited attention maps on one passage."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from softmap.errors import SoftmapError
from softmap.evals.loss import evaluating
from softmap.nn import attention_maps


def passage_maps(model: Any, tokens: list[int]) -> np.ndarray:
    """Returns the final edited weights of every layer and head, float16 (layers, heads, T, T).

    Row i holds what token i takes from tokens j <= i. Weights may be signed (diff, Shaped), and
    rows need not sum to 1.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([tokens], device=device)
    with evaluating(model):
        layers = [layer.float().cpu().numpy() for layer in attention_maps(model, ids)]
    if len({layer.shape for layer in layers}) != 1:
        shapes = ", ".join(str(layer.shape) for layer in layers)
        raise SoftmapError(f"expected maps of one shape in every layer, found {shapes}")
    return np.stack(layers).astype(np.float16)


def passage(heldout: np.ndarray, tokenizer: Any, length: int) -> list[int]:
    """Returns a part of the held-out tokens that starts at a line, to draw maps of.

    Args:
        heldout: 1-D token array. Of the lines in its first part, the one is taken that needs the
            fewest line breaks for ``length`` tokens: prose or code rather than a table of numbers.
    """
    tokens = [int(token) for token in heldout[: 64 * length]]
    breaks = np.array(["\n" in tokenizer.decode([token]) for token in tokens])
    starts = [i + 1 for i, ends in enumerate(breaks) if ends and i + 1 + length <= len(tokens)]
    best = min(starts or [0], key=lambda start: int(breaks[start : start + length].sum()))
    return tokens[best : best + length]
