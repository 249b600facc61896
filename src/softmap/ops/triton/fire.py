"""FIRE's bias on a tile: a small network of the relative distance, B = W2 relu(w1 x + b1) + b2.

    x = log(1 + c (i - j)) / log(1 + c max(L, i))

t = (w1, b1, w2, b2, c, L, rows, cols). The hidden units are walked
one by one, so that none of them needs a tile of its own.
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import heads_of, per_head
from softmap.ops.triton.scores import distance, row_position
from softmap.ops.triton.tiles import LN2, log2
from softmap.ops.triton.weights import add_of_head, of_head


@triton.jit
def number(t: tl.tuple, n: tl.tensor) -> tl.tensor:
    """Returns number n of a tensor of the layer, in float32."""
    return tl.load(t[0] + n).to(tl.float32)


@triton.jit
def head_weight(t: tl.tuple, h: tl.tensor, n: tl.tensor, heads: tl.tensor) -> tl.tensor:
    """Returns w2[h, n], in a shape that broadcasts to the tile."""
    return tl.load(t[0] + h * t[1] + n, mask=h < heads, other=0.0).to(tl.float32)


@triton.jit
def relative(at: tl.tuple, t: tl.tuple) -> tuple:
    """Returns x [rows, keys], and what its gradient needs: the distance, the reach, the
    denominator.
    """
    gap = distance(at, t[6], t[7])
    reach = tl.maximum(row_position(at, t[6]), number(t[5], 0))
    below = log2(1.0 + number(t[4], 0) * reach) * LN2
    return log2(1.0 + number(t[4], 0) * gap) * LN2 / below, gap, reach, below


@triton.jit
def fire(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns the tile of scores plus the bias FIRE."""
    h = heads_of(m, at)
    x, _, _, _ = relative(at, t)
    out = m + of_head(t[3], h, OPTIONS % 256)
    for n in range(OPTIONS // 65536):
        hidden = tl.maximum(x * number(t[0], n) + number(t[1], n), 0.0)
        out += head_weight(t[2], h, n, OPTIONS % 256) * hidden
    return out


@triton.jit
def fire_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns g, the gradient of the scores; adds the gradients of the MLP, c and L to ``d``."""
    if SIDE == "rows" and d[0] is not None:
        h = heads_of(m, at)
        x, gap, reach, below = relative(at, t)
        add_of_head(d[3], at, h, OPTIONS % 256, per_head(g))
        dx = tl.zeros_like(x)
        for n in range(OPTIONS // 65536):
            before = x * number(t[0], n) + number(t[1], n)
            hidden = tl.maximum(before, 0.0)
            place = d[2][0] + at[8] * d[2][1] + h * d[2][2] + n
            tl.atomic_add(place, per_head(g * hidden), mask=h < OPTIONS % 256, sem="relaxed")
            back = g * head_weight(t[2], h, n, OPTIONS % 256)
            if len(m.shape) == 3:
                back = tl.sum(back, 0)
            back = tl.where(before > 0.0, back, 0.0)
            tl.atomic_add(d[0][0] + at[8] * d[0][1] + n, tl.sum(back * x), sem="relaxed")
            tl.atomic_add(d[1][0] + at[8] * d[1][1] + n, tl.sum(back), sem="relaxed")
            dx += back * number(t[0], n)
        add_scales(x, dx, gap, reach, below, at, t, d)
    return g


@triton.jit
def add_scales(
    x: tl.tensor,
    dx: tl.tensor,
    gap: tl.tensor,
    reach: tl.tensor,
    below: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
) -> None:
    """Adds the gradients of c and L to ``d``. Where L equals the row, each gets half, as in
    ``torch.maximum``.
    """
    c, L = number(t[4], 0), number(t[5], 0)
    far = 1.0 + c * reach
    dc = dx * (gap / (1.0 + c * gap) - x * reach / far) / below
    row = row_position(at, t[6])
    longer = tl.where(row < L, 1.0, tl.where(row == L, 0.5, 0.0))
    dl = -dx * x * (c / far) * longer / below
    tl.atomic_add(d[4][0] + at[8] * d[4][1], tl.sum(dc), sem="relaxed")
    tl.atomic_add(d[5][0] + at[8] * d[5][1], tl.sum(dl), sem="relaxed")
