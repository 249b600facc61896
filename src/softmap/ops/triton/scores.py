"""Scores edits that leave heads apart: a temperature, additive position biases.

Tiles are [rows, keys] of one head, or [H, rows, keys] beside an edit that mixes heads.
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import heads_of, per_head
from softmap.ops.triton.tiles import LN2, log2
from softmap.ops.triton.weights import add_of_head, of_head


@triton.jit
def temperature(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m' = tau m. t = (tau,)."""
    return m * of_head(t[0], heads_of(m, at), OPTIONS % 256)


@triton.jit
def temperature_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient of the scores; adds that of tau to ``d``."""
    h = heads_of(m, at)
    if SIDE == "rows" and d[0] is not None:
        add_of_head(d[0], at, h, OPTIONS % 256, per_head(m * g))
    return g * of_head(t[0], h, OPTIONS % 256)


@triton.jit
def row_position(at: tl.tuple, rows: tl.tuple) -> tl.tensor:
    """Returns the positions [rows, 1] of the queries, without padding and earlier documents."""
    place = rows[0] + at[0] * rows[1] + at[2]
    return tl.load(place, mask=at[2] < at[5], other=0).to(tl.float32)


@triton.jit
def distance(at: tl.tuple, rows: tl.tuple, cols: tl.tuple) -> tl.tensor:
    """Returns i - j in tokens, [rows, keys], zero beyond the diagonal."""
    place = cols[0] + at[0] * cols[1] + at[3]
    col = tl.load(place, mask=at[3] < at[6], other=0).to(tl.float32)
    return tl.maximum(row_position(at, rows) - col, 0.0)


@triton.jit
def alibi(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m' = m - slope_h (i - j). t = (slopes, rows, cols)."""
    return m - of_head(t[0], heads_of(m, at), OPTIONS % 256) * distance(at, t[1], t[2])


@triton.jit
def alibi_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns g, the gradient of the scores; adds that of the slopes to ``d``."""
    if SIDE == "rows" and d[0] is not None:
        gap = distance(at, t[1], t[2])
        add_of_head(d[0], at, heads_of(m, at), OPTIONS % 256, -per_head(g * gap))
    return g


@triton.jit
def kerple(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m' = m - p_h log(1 + a_h (i - j)). t = (p, a, rows, cols)."""
    h = heads_of(m, at)
    reach = 1.0 + of_head(t[1], h, OPTIONS % 256) * distance(at, t[2], t[3])
    return m - of_head(t[0], h, OPTIONS % 256) * (log2(reach) * LN2)


@triton.jit
def kerple_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns g, the gradient of the scores; adds those of p and a to ``d``."""
    if SIDE == "rows":
        h = heads_of(m, at)
        gap = distance(at, t[2], t[3])
        reach = 1.0 + of_head(t[1], h, OPTIONS % 256) * gap
        if d[0] is not None:
            add_of_head(d[0], at, h, OPTIONS % 256, -per_head(g * log2(reach)) * LN2)
        if d[1] is not None:
            slope = of_head(t[0], h, OPTIONS % 256) * gap / reach
            add_of_head(d[1], at, h, OPTIONS % 256, -per_head(g * slope))
    return g
