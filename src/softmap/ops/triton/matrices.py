"""Compositions of heads as matrices: one over the heads for each query token, one for each key's.

    M_i = sum_r q1[i,r] q2[i,r]^T + diag(qg[i]) + W,    N_j = sum_r k1[j,r] k2[j,r]^T + diag(kg[j])

A composition adds M_i^T a + N_j^T a to the maps a of a cell; the rank no longer matters. The
identity stays outside, so talking heads' P comes as W = P - 1. H x H numbers a token, in the
inputs' dtype, made anew in each pass; kernels return their gradients, from which those of the
factors follow here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

SIDES = {"rows": ("q1", "q2", "qg", "static", "mix"), "keys": ("k1", "k2", "kg")}


def of_link(
    t: dict[str, Tensor], tile: int, tokens: dict[str, int], dtype: torch.dtype
) -> list[Tensor | None]:
    """Returns M, M^T, N and N^T (b, tokens, tile * tile), ``ordered``; None where a side has no
    tensors.
    """
    found: list[Tensor | None] = []
    for side, names in SIDES.items():
        m = _matrix(t, names)
        if m is None:
            found += [None, None]
            continue
        m = pad(m, (0, tile - m.shape[-1], 0, tile - m.shape[-1])).to(dtype)
        both = (ordered(m), ordered(m.transpose(-2, -1)))
        found += [x.expand(-1, tokens[side], -1) for x in both]
    return found


def _matrix(t: dict[str, Tensor], names: tuple[str, ...]) -> Tensor | None:
    """Returns (b, tokens or 1, H, H) in float32 or wider; rows are the heads that enter."""
    parts = []
    one, two, gate = (t.get(n) for n in names[:3])
    if one is not None and two is not None:
        parts.append(one.float().transpose(-2, -1) @ two.float())
    if gate is not None:
        parts.append(torch.diag_embed(gate.float()))
    for name in names[3:]:
        if name in t:
            own = torch.eye(len(t[name]), device=t[name].device) if name == "mix" else 0
            parts.append((t[name].float() - own)[None, None])
    return sum(parts[1:], parts[0]) if parts else None


def ordered(m: Tensor) -> Tensor:
    """Returns (b, n, H * H) from (b, n, H, H), in the order in which lanes hold right operands
    (``fragments.matrices``).
    """
    b, n, H, _ = m.shape
    m = m.reshape(b, n, H // 16, 2, 4, 2, H // 16, 2, 8)
    return m.permute(0, 1, 2, 6, 8, 4, 7, 3, 5).reshape(b, n, H * H)


def natural(m: Tensor, tile: int) -> Tensor:
    """Returns (b, n, tile, tile) from the sums (b, n, tile^2) of ``fragments.add_matrices``."""
    b, n, _ = m.shape
    m = m.reshape(b, n, tile // 16, tile // 16, 2, 8, 4, 2, 2)
    return m.permute(0, 1, 2, 4, 5, 3, 7, 6, 8).reshape(b, n, tile, tile)


def gradients(
    t: dict[str, Tensor], sums: dict[str, Tensor], tile: int, tokens: dict[str, int]
) -> dict[str, Tensor]:
    """Returns the gradients of a composition's tensors, in float32, from the sums of its sides (B,
    room, tile * tile).
    """
    found: dict[str, Tensor] = {}
    for side, total in sums.items():
        heads = next(iter(t.values())).shape[-1]
        g = natural(total, tile)[:, : tokens[side], :heads, :heads]
        one, two, gate, *layer = SIDES[side]
        if one in t:
            found[one] = t[two].float() @ g.transpose(-2, -1)
            found[two] = t[one].float() @ g
        if gate in t:
            found[gate] = g.diagonal(dim1=-2, dim2=-1)
        found |= {name: g.sum((0, 1)) for name in layer if name in t}
    return found
