"""Score convolution, backward: weights and score gradients of a band, and the parameters' sums.

The kernel writes P and dS of a band of rows; the products with q, k, v and do follow outside of it.
So no program holds sums for the queries, keys or values of all heads beside the map, every tile is
computed once, and all sums are formed in a fixed order.
"""

import triton
import triton.language as tl

from softmap.ops.triton.score_conv_bias import bias_adjoint, seen_bias
from softmap.ops.triton.score_conv_forward import edited_scores, hidden_sums, slope_of
from softmap.ops.triton.score_conv_tiles import (
    LOG2E,
    add_to,
    add_weights,
    convolve,
    of_columns,
    place_tile,
    products,
    seen_scores,
)


@triton.jit
def weights_gradient(s, v, do, lse, delta, h, at, size, P: tl.constexpr):
    """P = softmax(S') and dS' = P (do v - delta), (K, R, C)."""
    heads, T = size[0], size[2]
    V: tl.constexpr = P.value_width
    i = at[1][None, :]
    to = (at[0].to(tl.int64) * heads + h[:, None]) * T + i
    real = (h < heads)[:, None] & (i < T)
    low = tl.load(lse + to, mask=real, other=0.0)
    p = tl.where(at[3][None], tl.exp2(s * LOG2E - low[:, :, None]), 0.0)
    dp = products(do, v, h, at, heads, size[1], T, size[3], size[5], V, P.precision)
    return p, p * (dp - tl.load(delta + to, mask=real, other=0.0)[:, :, None])


@triton.jit
def band_place(h, at, band, used, size):
    """Where the columns ``used`` of a tile lie in the band's maps: offsets and mask (K, R, C)."""
    h, i = h[:, None, None], (at[1] - band[0])[None, :, None]
    j = (at[2] - band[2])[None, None, :]
    height, width = band[1] - band[0], band[3] - band[2]
    to = ((at[0].to(tl.int64) * size[0] + h) * height + i) * width + j
    return to, (h < size[0]) & (i < height) & used[None, None, :] & (j >= 0) & (j < width)


@triton.jit
def second_adjoint(q, k, v, do, w2, bias, lse, delta, maps, to_w2, hidden, x, band, used, at, size,
                   P: tl.constexpr):  # fmt: skip
    """(M, R C) gradient of the hidden map; writes P and dS', adds to the gradient of w2."""
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    dz = tl.zeros((M, R * C), tl.float32)
    for n in tl.static_range(H // K):
        h = n * K + tl.arange(0, K)
        s = edited_scores(q, k, w2, bias, hidden, x, n, at, size, P)
        p, ds = weights_gradient(s, v, do, lse, delta, h, at, size, P)
        to, mask = band_place(h, at, band, used, size)
        tl.store(maps[0] + to, p, mask=mask)
        tl.store(maps[1] + to, ds, mask=mask)
        dz = convolve(dz, ds, w2 + n * K * M, 1, M, H * M, -1, P)
        own = tl.reshape(tl.where(used[None, None, :], ds, 0.0), (K, R * C))
        add_weights(to_w2 + n * K * M, own.to(hidden.dtype), hidden, M, 1, H * M, P)
    return dz


@triton.jit
def first_adjoint(q, k, w1, bias, maps, to_w1, to_bias, dz, band, used, at, size, P: tl.constexpr):
    """Turns dS' of the band into dS, adds to the gradients of w1 and of the bias."""
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    N: tl.constexpr = P.channels
    see = (at[3] & used[None, :])[None]
    own = of_columns(tl.broadcast_to(used[None, :], (R, C)), dz).to(w1.dtype.element_ty)
    dz = tl.reshape(dz.to(w1.dtype.element_ty), (M, R, C))
    for n in tl.static_range(H // K):
        h = n * K + tl.arange(0, K)
        add_weights(to_w1 + n * K, own, seen_scores(q, k, h, at, size, P), N, 1, M * N, P)
        to, mask = band_place(h, at, band, used, size)
        ds = tl.load(maps[1] + to, mask=mask, other=0.0).to(tl.float32)
        ds = tl.reshape(ds, (K, R * C))
        through = convolve(ds, dz, w1 + n * K, 1, N, M * N, -1, P)
        tl.store(maps[1] + to, tl.where(see, tl.reshape(through, (K, R, C)), 0.0), mask=mask)
        if N > H:
            add_weights(to_w1 + H + n * K, own, seen_bias(bias, h, at, P), N, 1, M * N, P)
            db = convolve(ds, dz, w1 + H + n * K, 1, N, M * N, -1, P)
            db = tl.where(see, tl.reshape(db, (K, R, C)), 0.0)
            bias_adjoint(to_bias, bias, h, db, at, P)


@triton.jit
def backward_kernel(q, k, v, do, w1, b1, w2, bias, until, rows, cols, lse, delta, maps, sums, size,
                    band, P: tl.constexpr):  # fmt: skip
    """Every n-th tile of a band, n programs in all. band: (first row, last, first key, last, B).

    maps: P and dS, each (B, heads, rows, keys). sums: (n, size of b1, w1, w2 and bias) float32, to
    which each program adds its tiles' part of their gradients, flat and in this order.
    """
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    N: tl.constexpr = P.channels
    TAPS: tl.constexpr = P.taps
    HALO: tl.constexpr = P.taps // 2 * 4
    USE: tl.constexpr = P.cols - P.taps // 2 * 8
    to_b1 = sums[0] + tl.program_id(0).to(tl.int64) * sums[1]
    to_w1 = to_b1 + M
    to_w2 = to_w1 + TAPS * M * N
    to_bias = to_w2 + TAPS * H * M
    across = tl.cdiv(band[3] + TAPS // 2 - band[2], USE)
    tiles = tl.cdiv(band[1] - band[0], R) * across
    for tile in range(tl.program_id(0), band[4] * tiles, tl.num_programs(0)):
        c0 = band[2] + tile % across * USE
        i = band[0] + tile % tiles // across * R + tl.arange(0, R)
        j = c0 - HALO + tl.arange(0, C)
        used = (j >= c0) & (j < c0 + USE)
        at = place_tile(until, rows, cols, tile // tiles, i, j, size[2], size[3])
        z, x = hidden_sums(q, k, w1, b1, bias, at, size, P)
        slope = slope_of(z, at, size, P)
        hidden = tl.reshape((z * slope).to(w2.dtype.element_ty), (M, R, C))
        dz = second_adjoint(q, k, v, do, w2, bias, lse, delta, maps, to_w2, hidden, x, band, used,
                            at, size, P)  # fmt: skip
        dz *= slope
        own = of_columns(tl.broadcast_to(used[None, :], (R, C)), dz)
        add_to(to_b1 + tl.arange(0, M), tl.sum(own, 1))
        tl.debug_barrier()  # what one thread has written another one reads
        first_adjoint(q, k, w1, bias, maps, to_w1, to_bias, dz, band, used, at, size, P)
        tl.debug_barrier()
