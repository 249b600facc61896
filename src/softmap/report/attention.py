"""Attention maps of one passage: what they look like in numbers, and packed for the page.

Shape letters: L layers, H heads, T tokens (queries i, keys j <= i), P = T (T + 1) / 2 pairs.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from softmap.report.stats import Array

MAX_LAYERS = 12
MAX_HEADS = 16


def statistics(maps_LHTT: Array) -> dict[str, float]:
    """Returns where the weight of a model's maps lies, averaged over layers, heads and queries
    i >= 1.

    Signed weights are measured by size, m_ij = |w_ij| / sum_j |w_ij|::

        first_token       mean of m_i0
        diagonal          mean of m_ii
        negative          mean over rows of the sum of m_ij where w_ij < 0
        entropy           mean of -sum_j m_ij ln m_ij, in nats
        effective_tokens  exp(entropy): so many tokens of equal weight are as spread out
        row_sum           mean of sum_j w_ij (1 for a plain softmax)

    The first query is left out: it sees only itself. Rows that are zero throughout count as zero.
    """
    rows = np.tril(maps_LHTT)[:, :, 1:, :]
    size = np.abs(rows)
    total = size.sum(-1, keepdims=True)
    mass = np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    logs = np.log(mass, out=np.zeros_like(mass), where=mass > 0)
    entropy = float(-(mass * logs).sum(-1).mean()) if mass.size else 0.0
    return {
        "first_token": _mean(mass[..., 0]),
        "diagonal": _mean(np.diagonal(mass, offset=1, axis1=-2, axis2=-1)),
        "negative": _mean((mass * (rows < 0)).sum(-1)),
        "entropy": entropy,
        "effective_tokens": float(np.exp(entropy)),
        "row_sum": _mean(rows.sum(-1)),
    }


def describe(numbers: dict[str, float], control: dict[str, float] | None) -> str:
    """Returns a caption: spread, first token, diagonal, sign, with the control's numbers beside."""
    spread = f"Its weight spreads over {numbers['effective_tokens']:.1f} tokens"
    first = f"{numbers['first_token']:.0%} lies on the first token"
    diagonal = f"{numbers['diagonal']:.0%} on the token itself"
    if control is not None:
        spread = f"{_compare(numbers, control)}: {spread[0].lower()}{spread[1:]}"
        spread += f" (control {control['effective_tokens']:.1f})"
        first += f" ({control['first_token']:.0%})"
        diagonal += f" ({control['diagonal']:.0%})"
    return f"{spread}; {first}, {diagonal}. {_sign(numbers)}"


def _compare(numbers: dict[str, float], control: dict[str, float]) -> str:
    ratio = numbers["effective_tokens"] / max(control["effective_tokens"], 1e-9)
    if ratio < 0.87:
        return "Sharper than the control"
    return "More spread out than the control" if ratio > 1.15 else "About as sharp as the control"


def _sign(numbers: dict[str, float]) -> str:
    sign = (
        f"{numbers['negative']:.0%} of it is negative"
        if numbers["negative"] >= 0.005
        else "None of it is negative"
        if numbers["negative"] == 0
        else "Less than 1% of it is negative"
    )
    if abs(numbers["row_sum"] - 1) < 0.005:
        return f"{sign}; rows add up to 1."
    return f"{sign}; rows add up to {numbers['row_sum']:.2f} on average."


def pack(maps_LHTT: Array) -> dict[str, Any]:
    """Returns the maps in about one byte per visible pair, for drawing.

    Each head is scaled by its largest |w| and stored as round(127 sign(w) sqrt(|w| / scale)): the
    square root keeps small weights apart (step 6e-5 of the scale near zero, 1.6 % near the top).
    Models with more than 12 layers or 16 heads are thinned evenly; ``layers`` and ``heads`` tell
    which ones are kept.

    Returns:
        ``size`` T, ``layers``, ``heads`` (indices), ``scales`` (L, H), and ``data``: base64 of
        int8 (L, H, P), the lower triangle row by row.
    """
    layers = _evenly(maps_LHTT.shape[0], MAX_LAYERS)
    heads = _evenly(maps_LHTT.shape[1], MAX_HEADS)
    size = maps_LHTT.shape[2]
    i, j = np.tril_indices(size)
    weights_LHP = maps_LHTT[np.ix_(layers, heads)][:, :, i, j]
    scales_LH = np.abs(weights_LHP).max(-1)
    share = np.abs(weights_LHP) / np.where(scales_LH > 0, scales_LH, 1.0)[..., None]
    codes = np.round(127 * np.sign(weights_LHP) * np.sqrt(share)).astype(np.int8)
    return {
        "size": size,
        "layers": layers,
        "heads": heads,
        "scales": [[float(f"{scale:.4g}") for scale in row] for row in scales_LH],
        "data": base64.b64encode(codes.tobytes()).decode("ascii"),
    }


def _evenly(count: int, limit: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, limit)).round()})


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else 0.0
