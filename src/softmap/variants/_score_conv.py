"""A convolution (1, k) along the keys, zero-padded to keep its width, as one matrix product.

With few channels on one side conv2d is much slower on a CPU, forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SLOPE = 0.01


def conv_out(m: Tensor, w: Tensor) -> Tensor:
    """Returns (B, H, R, C) * (M, H, 1, k) -> (B, M, R, C), for few channels in: shift, then
    multiply.
    """
    taps, width = w.shape[3], m.shape[3]
    m = F.pad(m, (taps // 2, taps // 2))
    return _times(_flat_out(w), torch.cat([m[..., n : n + width] for n in range(taps)], 1))


def conv_in(m: Tensor, w: Tensor) -> Tensor:
    """Returns (B, M, R, C) * (H, M, 1, k) -> (B, H, R, C), for few channels out: multiply, then
    add shifted.
    """
    taps, width = w.shape[3], m.shape[3]
    parts = F.pad(_times(_flat_in(w), m), (taps // 2, taps // 2)).unflatten(1, (taps, -1))
    out = parts[:, 0, ..., taps - 1 : taps - 1 + width]
    for n in range(1, taps):
        out = out + parts[:, n, ..., taps - 1 - n : taps - 1 - n + width]
    return out


def _flat_out(w: Tensor) -> Tensor:
    """Returns (M, H, 1, k) as (M, k H)."""
    return w.squeeze(2).permute(0, 2, 1).flatten(1)


def _flat_in(w: Tensor) -> Tensor:
    """Returns (H, M, 1, k) as (k H, M), with reversed taps."""
    return w.squeeze(2).flip(-1).permute(2, 0, 1).flatten(0, 1)


def _times(w: Tensor, m: Tensor) -> Tensor:
    """Returns (M, K) times (B, K, R, C) over the channels, by bmm, since matmul would transpose
    the maps.
    """
    out = torch.bmm(w.expand(m.shape[0], -1, -1), m.flatten(2))
    return out.unflatten(2, m.shape[2:])
