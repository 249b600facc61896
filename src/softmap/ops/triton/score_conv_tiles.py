"""Tile functions of the score convolution: a tile is channels x query rows x keys.

Channels are heads or hidden channels, K of them in and N out; R rows, C columns. A tile has columns
to spare on both sides: a shift along the keys brings columns in from the other end, so every
convolution spoils taps // 2 more columns at each side, which nobody reads.

``at`` is where a tile lies: (b, i, j, see, gap, row). b: sequence; i (R), j (C): numbers of its
queries and keys; see (R, C): what is visible; gap (R, C) float32: distance in tokens, 0 beyond the
diagonal; row (R) float32: positions of the queries. ``size`` is (heads, heads of a key head, T, S,
d, d', scale, 0); q, k, v are (pointer, strides of batch, head, token).
"""

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.01)


@triton.jit
def place_tile(
    until: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    b: tl.tensor,
    i: tl.tensor,
    j: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
) -> tuple:
    """Returns ``at`` of a tile."""
    place = (i + (S - T))[:, None]
    real = (j >= 0) & (j < S)
    end = tl.load(until[0] + b * until[1] + j, mask=real, other=0)[None, :]
    see = (j[None, :] <= place) & (place < end)
    row = tl.load(rows[0] + b * rows[1] + i, mask=i < T, other=0)
    col = tl.load(cols[0] + b * cols[1] + j, mask=real, other=0)
    gap = tl.maximum(row[:, None] - col[None, :], 0).to(tl.float32)
    return (b, i, j, see, gap, row.to(tl.float32))


@triton.jit
def products(
    x: tl.tuple,
    y: tl.tuple,
    h: tl.tensor,
    at: tl.tuple,
    NX: tl.tensor,
    NY: tl.tensor,
    TX: tl.tensor,
    TY: tl.tensor,
    D: tl.tensor,
    DP: tl.constexpr,
    P: tl.constexpr,
) -> tl.tensor:
    """Returns <x[h, i], y[g, j]>, (K, R, C), with g = h // NY the key head of h; zero outside of
    the arrays.
    """
    b, i, j = at[0].to(tl.int64), at[1][None, :, None], at[2][None, None, :]
    h = h[:, None, None]
    c = tl.arange(0, DP)
    to = x[0] + b * x[1] + h * x[2] + i * x[3] + c[None, None, :]
    left = tl.load(to, mask=(h < NX) & (i < TX) & (c[None, None, :] < D), other=0.0)
    to = y[0] + b * y[1] + h // NY * y[2] + j * y[3] + c[None, :, None]
    mask = (h < NX) & (j >= 0) & (j < TY) & (c[None, :, None] < D)
    return tl.dot(left, tl.load(to, mask=mask, other=0.0), input_precision=P.precision)


@triton.jit
def seen_scores(
    q: tl.tuple, k: tl.tuple, h: tl.tensor, at: tl.tuple, size: tl.tuple, P: tl.constexpr
) -> tl.tensor:
    """Returns the scaled scores (K, R, C) of heads h, zero where not visible."""
    D: tl.constexpr = P.width
    s = products(q, k, h, at, size[0], size[1], size[2], size[3], size[4], D, P)
    return tl.where(at[3][None], s * size[6], 0.0)


@triton.jit
def shift(x: tl.tensor, nil: tl.tensor, BY: tl.constexpr) -> tl.tensor:
    """Returns (K, R, C) whose column c is column c + BY of x, counted cyclically.

    nil is zero. Where it is not a constant the compiler shifts x again, instead of holding a copy
    from an earlier use in registers until then.
    """
    if BY != 0:
        C: tl.constexpr = x.shape[2]
        c = (tl.arange(0, C) + (nil + BY + C)) & (C - 1)
        x = tl.gather(x, tl.broadcast_to(c[None, None, :], x.shape), 2)
    return x


@triton.jit
def convolve(
    acc: tl.tensor,
    x: tl.tensor,
    w: tl.tensor,
    sn: tl.tensor,
    sk: tl.tensor,
    st: tl.tensor,
    WAY: tl.constexpr,
    P: tl.constexpr,
) -> tl.tensor:
    """Returns acc (N, R C) + sum_t w_t (N, K) x_t (K, R C), with x_t[c] = x[c + WAY (t - taps //
    2)].

    w points at the first of the weights w_t[n, k], with their three strides. WAY is 1, or -1 for
    the adjoint.
    """
    TAPS: tl.constexpr = P.taps
    n, k = tl.arange(0, acc.shape[0]), tl.arange(0, x.shape[0])
    x = x.to(w.dtype.element_ty)
    for t in tl.static_range(TAPS):
        moved = tl.reshape(shift(x, 0, WAY * (t - TAPS // 2)), (x.shape[0], acc.shape[1]))
        w_t = tl.load(w + t * st + n[:, None] * sn + k[None, :] * sk)
        acc = tl.dot(w_t, moved, acc, input_precision=P.precision)
    return acc


@triton.jit
def add_weights(
    to: tl.tensor,
    dy: tl.tensor,
    x: tl.tensor,
    sn: tl.tensor,
    sk: tl.tensor,
    st: tl.tensor,
    nil: tl.tensor,
    P: tl.constexpr,
) -> None:
    """Adds the weights' gradient: to_t[n, k] += sum_rc dy[n, r, c] x_t[k, r, c], dy (N, R, C).

    A product for every two rows, then their sum: in one long product each warp would hold all of
    dy.
    """
    TAPS: tl.constexpr = P.taps
    N: tl.constexpr = dy.shape[0]
    K: tl.constexpr = x.shape[0]
    PAIRS: tl.constexpr = dy.shape[1] // 2
    LONG: tl.constexpr = dy.shape[2] * 2
    n, k = tl.arange(0, N), tl.arange(0, K)
    x = x.to(dy.dtype)
    dy = tl.permute(tl.reshape(dy, (N, PAIRS, LONG)), (1, 0, 2))
    for t in tl.static_range(TAPS):
        moved = tl.permute(tl.reshape(shift(x, nil, t - TAPS // 2), (K, PAIRS, LONG)), (1, 2, 0))
        part = tl.sum(tl.dot(dy, moved, input_precision=P.precision), 0)
        add_to(to + t * st + n[:, None] * sn + k[None, :] * sk, part)


@triton.jit
def add_to(to: tl.tensor, x: tl.tensor) -> None:
    """Adds a tile to memory that this program alone writes."""
    tl.store(to, tl.load(to) + x)


@triton.jit
def of_columns(mask: tl.tensor, x: tl.tensor) -> tl.tensor:
    """Returns x (N, R C) with zeros in the columns that mask (R, C) leaves out."""
    R: tl.constexpr = mask.shape[0]
    C: tl.constexpr = mask.shape[1]
    N: tl.constexpr = x.shape[0]
    flat = tl.reshape(tl.broadcast_to(mask[None], (N, R, C)), (N, R * C))
    return tl.where(flat, x, 0.0)
