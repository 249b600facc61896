"""Score convolution, backward: weights and score gradients of a band, and the parameters' sums.

Two kernels write maps of a band of rows; products with q, k, v and do follow outside of them.

    weights    P = softmax(S'), dS' = P (do v - delta)
    gradients  dS from dS' through both convolutions; sums for the parameters

So no program holds sums for the queries, keys or values of all heads beside a tile, and all sums
are formed in a fixed order. One kernel for both would hold twice as much, and twice the halo.
"""

import triton
import triton.language as tl

from softmap.ops.triton.score_conv_bias import bias_adjoint, seen_bias
from softmap.ops.triton.score_conv_forward import edited_scores, hidden_sums, slope_of
from softmap.ops.triton.score_conv_tiles import (
    add_to,
    add_weights,
    convolve,
    of_columns,
    place_tile,
    products,
    seen_scores,
)
from softmap.ops.triton.tiles import LOG2E


@triton.jit
def band_tile(
    until: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    band: tl.tuple,
    tile: tl.tensor,
    across: tl.tensor,
    T: tl.tensor,
    S: tl.tensor,
    P: tl.constexpr,
) -> tuple:
    """Returns ``at`` of a band's tile, and which of its columns (C) it computes for the band.

    Args:
        band: (first row, last, first key, last, B, 0).
    """
    HALO: tl.constexpr = P.taps // 2 * 2
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    tiles = tl.cdiv(band[1] - band[0], R) * across
    c0 = band[2] + tile % across * (C - 2 * HALO)
    i = band[0] + tile % tiles // across * R + tl.arange(0, R)
    j = c0 - HALO + tl.arange(0, C)
    at = place_tile(until, rows, cols, tile // tiles, i, j, T, S)
    return at, (j >= c0) & (j < c0 + C - 2 * HALO)


@triton.jit
def band_place(h: tl.tensor, at: tl.tuple, band: tl.tuple, size: tl.tuple) -> tuple:
    """Returns offsets and mask (K, R, C) of a tile in the band's maps."""
    h, i = h[:, None, None], (at[1] - band[0])[None, :, None]
    j = (at[2] - band[2])[None, None, :]
    height, width = band[1] - band[0], band[3] - band[2]
    to = at[0].to(tl.int64) * size[0] * height * width + ((h * height + i) * width + j)
    return to, (h < size[0]) & (i < height) & (j >= 0) & (j < width)


@triton.jit
def clear(
    x: tl.tensor, at: tl.tuple, band: tl.tuple, used: tl.tensor, size: tl.tuple, P: tl.constexpr
) -> None:
    """Stores zeros in a band's map, for a tile without a visible cell."""
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    zero = tl.zeros((K, R, C), x.dtype.element_ty)
    for n in tl.static_range(H // K):
        to, mask = band_place(n * K + tl.arange(0, K), at, band, size)
        tl.store(x + to, zero, mask=mask & used[None, None, :])


@triton.jit(do_not_specialize=["band"])
def weights_kernel(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    do: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    bias: tl.tensor,
    until: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    lse: tl.tensor,
    delta: tl.tensor,
    maps: tl.tuple,
    size: tl.tuple,
    band: tl.tuple,
    P: tl.constexpr,
) -> None:
    """Stores P and dS' of a band's tile in maps[0] and maps[1], each (B, heads, rows, keys)."""
    USE: tl.constexpr = P.cols - P.taps // 2 * 4
    across = tl.cdiv(band[3] - band[2], USE)
    at, used = band_tile(until, rows, cols, band, tl.program_id(0), across, size[2], size[3], P)
    if tl.max(at[3].to(tl.int32)) > 0:
        write_weights(q, k, v, do, w1, b1, w2, bias, lse, delta, maps, band, used, at, size, P)
    else:
        clear(maps[0], at, band, used, size, P)
        clear(maps[1], at, band, used, size, P)


@triton.jit
def write_weights(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    do: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    bias: tl.tensor,
    lse: tl.tensor,
    delta: tl.tensor,
    maps: tl.tuple,
    band: tl.tuple,
    used: tl.tensor,
    at: tl.tuple,
    size: tl.tuple,
    P: tl.constexpr,
) -> None:
    """Stores a tile's weights and the gradients of its scores for the passes that follow."""
    M: tl.constexpr = P.hidden
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    V: tl.constexpr = P.value_width
    heads, T, S = size[0], size[2], size[3]
    z, x = hidden_sums(q, k, w1, b1, bias, at, size, P)
    z *= slope_of(z, at, size)
    hidden = tl.reshape(z.to(w2.dtype.element_ty), (M, R, C))
    for n in tl.static_range(H // K):
        h = n * K + tl.arange(0, K)
        s = edited_scores(q, k, w2, bias, hidden, x, n, at, size, P)
        to = (at[0].to(tl.int64) * heads + h[:, None]) * T + at[1][None, :]
        real = (h < heads)[:, None] & (at[1] < T)[None, :]
        low = tl.load(lse + to, mask=real, other=0.0)
        p = tl.where(at[3][None], tl.exp2(s * LOG2E - low[:, :, None]), 0.0)
        dp = products(do, v, h, at, heads, size[1], T, S, size[5], V, P)
        ds = p * (dp - tl.load(delta + to, mask=real, other=0.0)[:, :, None])
        to, mask = band_place(h, at, band, size)
        tl.store(maps[0] + to, p, mask=mask & used[None, None, :])
        tl.store(maps[1] + to, ds, mask=mask & used[None, None, :])


@triton.jit
def hidden_adjoint(
    maps: tl.tuple,
    w2: tl.tensor,
    to_w2: tl.tensor,
    hidden: tl.tensor,
    nil: tl.tensor,
    band: tl.tuple,
    used: tl.tensor,
    at: tl.tuple,
    size: tl.tuple,
    P: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient (M, R C) of the hidden map; adds to the gradient of w2."""
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    dz = tl.zeros((M, R * C), tl.float32)
    for n in tl.static_range(H // K):
        to, mask = band_place(n * K + tl.arange(0, K), at, band, size)
        ds = tl.load(maps[1] + to, mask=mask, other=0.0)
        dz = convolve(dz, ds, w2 + n * K * M, 1, M, H * M, -1, P)
        own = tl.where(used[None, None, :], ds, 0.0).to(ds.dtype)
        add_weights(to_w2 + n * K * M, own, hidden, M, 1, H * M, nil, P)
    return dz


@triton.jit
def scores_adjoint(
    q: tl.tuple,
    k: tl.tuple,
    w1: tl.tensor,
    bias: tl.tensor,
    maps: tl.tuple,
    to_w1: tl.tensor,
    to_bias: tl.tensor,
    dz: tl.tensor,
    own: tl.tensor,
    nil: tl.tensor,
    band: tl.tuple,
    used: tl.tensor,
    at: tl.tuple,
    size: tl.tuple,
    P: tl.constexpr,
) -> None:
    """Stores dS, and adds to the gradients of w1 and of the bias. dz and own are (M, R, C)."""
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    N: tl.constexpr = P.channels
    M: tl.constexpr = P.hidden
    mine = (at[3] & used[None, :])[None]
    for n in tl.static_range(H // K):
        h = n * K + tl.arange(0, K)
        add_weights(to_w1 + n * K, own, seen_scores(q, k, h, at, size, P), N, 1, M * N, nil, P)
        to, mask = band_place(h, at, band, size)
        ds = tl.reshape(tl.load(maps[1] + to, mask=mask, other=0.0).to(tl.float32), (K, R * C))
        if N > H:
            add_weights(to_w1 + H + n * K, own, seen_bias(bias, h, at, P), N, 1, M * N, nil, P)
            db = convolve(ds, dz, w1 + H + n * K, 1, N, M * N, -1, P)
            db = tl.where(mine, tl.reshape(db, (K, R, C)), 0.0)
            bias_adjoint(to_bias, bias, h, db, at, P)
        ds = tl.reshape(convolve(ds, dz, w1 + n * K, 1, N, M * N, -1, P), (K, R, C))
        tl.store(maps[2] + to, tl.where(mine, ds, 0.0), mask=mask & used[None, None, :])


@triton.jit(do_not_specialize=["band"])
def gradients_kernel(
    q: tl.tuple,
    k: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    bias: tl.tensor,
    until: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    maps: tl.tuple,
    sums: tl.tuple,
    size: tl.tuple,
    band: tl.tuple,
    P: tl.constexpr,
) -> None:
    """Stores dS of every n-th tile of a band, n programs in all, from maps[1] into maps[2].

    Args:
        sums: (n, size of b1, w1, w2 and bias) float32, to which each program adds its tiles' part
            of their gradients, flat and in this order.
    """
    R: tl.constexpr = P.rows
    SPILL: tl.constexpr = P.taps // 2
    USE: tl.constexpr = P.cols - P.taps // 2 * 4
    sums = sums[0] + tl.program_id(0).to(tl.int64) * sums[1]
    # The hidden map has a gradient some columns beyond the last key too.
    across = tl.cdiv(band[3] + SPILL - band[2], USE)
    tiles = band[4] * tl.cdiv(band[1] - band[0], R) * across
    T, S = size[2], size[3]
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at, used = band_tile(until, rows, cols, band, tile, across, T, S, P)
        if tl.max(at[3].to(tl.int32)) > 0:
            add_tile(q, k, w1, b1, w2, bias, until, rows, cols, maps, sums, tile, across, band, at,
                     used, size, P)  # fmt: skip
        else:
            clear(maps[2], at, band, used, size, P)


@triton.jit
def add_tile(
    q: tl.tuple,
    k: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    bias: tl.tensor,
    until: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    maps: tl.tuple,
    sums: tl.tensor,
    tile: tl.tensor,
    across: tl.tensor,
    band: tl.tuple,
    at: tl.tuple,
    used: tl.tensor,
    size: tl.tuple,
    P: tl.constexpr,
) -> None:
    """Computes one tile of [`gradients_kernel`][] in all phases.

    ``nil`` is a zero that the compiler cannot know: it then computes indices again, instead of
    holding them in registers from phase to phase and from tile to tile.
    """
    M: tl.constexpr = P.hidden
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    W1: tl.constexpr = P.taps * P.hidden * P.channels
    W2: tl.constexpr = P.taps * P.hidden * P.heads
    T, S = size[2], size[3]
    nil = tile * band[5]
    sums += nil
    z, _ = hidden_sums(q, k, w1 + nil, b1, bias, at, size, P)
    z *= slope_of(z, at, size)
    hidden = tl.reshape(z.to(w2.dtype.element_ty), (M, R, C))
    at, used = band_tile(until, rows, cols, band, tile + nil, across, T, S, P)
    dz = hidden_adjoint(maps, w2 + nil, sums + M + W1, hidden, nil, band, used, at, size, P)
    dz *= slope_of(tl.reshape(hidden, (M, R * C)), at, size)
    own = of_columns(tl.broadcast_to(used[None, :], (R, C)), dz)
    add_to(sums + tl.arange(0, M), tl.sum(own, 1))
    own = tl.reshape(own.to(w1.dtype.element_ty), (M, R, C))
    dz = tl.reshape(dz.to(w1.dtype.element_ty), (M, R, C))
    at, used = band_tile(until, rows, cols, band, tile + 2 * nil, across, T, S, P)
    scores_adjoint(q, k, w1 + 2 * nil, bias, maps, sums + M, sums + M + W1 + W2, dz, own, nil, band,
                   used, at, size, P)  # fmt: skip
    tl.debug_barrier()  # the next tile's sums are read by other threads
