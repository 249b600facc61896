"""Score convolution, forward: all heads' scores, two convolutions, online softmax, times v."""

import triton
import triton.language as tl

from softmap.ops.triton.score_conv_bias import seen_bias
from softmap.ops.triton.score_conv_tiles import (
    SLOPE,
    convolve,
    of_columns,
    place_tile,
    seen_scores,
)
from softmap.ops.triton.tiles import LOG2E


@triton.jit
def hidden_sums(
    q: tl.tuple,
    k: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    bias: tl.tensor,
    at: tl.tuple,
    size: tl.tuple,
    P: tl.constexpr,
) -> tuple:
    """Returns the hidden map (M, R C) before its LeakyReLU, computed from K of the H heads at a
    time.

    Also returns the sum of scores and bias, (K, R, C), where there is one group of heads.
    """
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    N: tl.constexpr = P.channels
    z = tl.broadcast_to(tl.load(b1 + tl.arange(0, M))[:, None], (M, R * C))
    x = tl.zeros((K, R, C), tl.float32)
    for n in tl.static_range(H // K):
        h = n * K + tl.arange(0, K)
        x = seen_scores(q, k, h, at, size, P)
        z = convolve(z, x, w1 + n * K, N, 1, M * N, 1, P)
        if N > H:
            b = seen_bias(bias, h, at, P)
            z = convolve(z, b, w1 + H + n * K, N, 1, M * N, 1, P)
            x += b
    return z, x


@triton.jit
def edited_scores(
    q: tl.tuple,
    k: tl.tuple,
    w2: tl.tensor,
    bias: tl.tensor,
    hidden: tl.tensor,
    x: tl.tensor,
    n: tl.tensor,
    at: tl.tuple,
    size: tl.tuple,
    P: tl.constexpr,
) -> tl.tensor:
    """Returns the edited scores (K, R, C) of group n without b2, which the softmax does not see.

    Args:
        x: what [`hidden_sums`][] gives with one group of heads; otherwise it is computed again.
    """
    M: tl.constexpr = P.hidden
    H: tl.constexpr = P.heads
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    N: tl.constexpr = P.channels
    if H > K:
        h = n * K + tl.arange(0, K)
        x = seen_scores(q, k, h, at, size, P)
        if N > H:
            x += seen_bias(bias, h, at, P)
    s = convolve(tl.reshape(x, (K, R * C)), hidden, w2 + n * K * M, M, 1, H * M, 1, P)
    return tl.reshape(s, (K, R, C))


@triton.jit
def slope_of(z: tl.tensor, at: tl.tuple, size: tl.tuple) -> tl.tensor:
    """Returns the derivative (M, R C) of the hidden map by z, which may be the hidden map itself.

    The hidden map continues beyond the diagonal; before a row's first key it is zero.
    """
    place = at[1] + (size[3] - size[2])
    return of_columns(at[3] | (at[2][None, :] > place[:, None]), tl.where(z > 0, 1.0, SLOPE))


@triton.jit(do_not_specialize=["splits"])
def forward_kernel(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    w1: tl.tensor,
    b1: tl.tensor,
    w2: tl.tensor,
    bias: tl.tensor,
    until: tl.tuple,
    first: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    o: tl.tensor,
    lse: tl.tensor,
    size: tl.tuple,
    splits: tl.tensor,
    P: tl.constexpr,
) -> None:
    """Stores o and lse of one block of rows, one group of heads (the convolutions take all heads)
    and a share of the keys.

    Args:
        o: (splits, B, heads, T, d') and lse: (splits, B, heads, T), base 2, of each share alone.
    """
    M: tl.constexpr = P.hidden
    K: tl.constexpr = P.group
    R: tl.constexpr = P.rows
    C: tl.constexpr = P.cols
    V: tl.constexpr = P.value_width
    GROUPS: tl.constexpr = P.heads // P.group
    HALO: tl.constexpr = P.taps // 2 * 2
    USE: tl.constexpr = P.cols - P.taps // 2 * 4
    heads, repeat, T, S, DV = size[0], size[1], size[2], size[3], size[5]
    block, part = tl.program_id(0), tl.program_id(2)
    b, group = tl.program_id(1) // GROUPS, tl.program_id(1) % GROUPS
    i = block * R + tl.arange(0, R)
    h = group * K + tl.arange(0, K)
    c = tl.arange(0, V)
    lo = tl.load(first[0] + b * first[1] + block * R)
    hi = tl.minimum(block * R + R, T) + (S - T)
    share = tl.cdiv(tl.cdiv(hi - lo, USE), splits) * USE
    begin = lo + part * share
    top = tl.full((K, R), float("-inf"), tl.float32)
    mass = tl.zeros((K, R), tl.float32)
    acc = tl.zeros((K, R, V), tl.float32)
    for c0 in range(begin, tl.minimum(begin + share, hi), USE):
        j = c0 - HALO + tl.arange(0, C)
        # Several groups' queries do not fit in shared memory at once. A zero that the compiler
        # cannot know keeps it from loading them all before the loop.
        nil = c0 * size[7] if GROUPS > 1 else 0
        at = place_tile(until, rows, cols, b, i + nil, j, T, S)
        z, x = hidden_sums(q, k, w1, b1, bias, at, size, P)
        z *= slope_of(z, at, size)
        hidden = tl.reshape(z.to(w2.dtype.element_ty), (M, R, C))
        s = edited_scores(q, k, w2, bias, hidden, x, group, at, size, P) * LOG2E
        mine = at[3] & ((j >= c0) & (j < c0 + USE))[None, :]
        s = tl.where(mine[None], s, float("-inf"))
        peak = tl.maximum(top, tl.max(s, 2))
        safe = tl.where(peak == float("-inf"), 0.0, peak)
        p = tl.exp2(s - safe[:, :, None])
        fade = tl.exp2(top - safe)
        mass = mass * fade + tl.sum(p, 2)
        to = v[0] + b.to(tl.int64) * v[1] + (h // repeat)[:, None, None] * v[2]
        to = to + j[None, :, None] * v[3] + c[None, None, :]
        real = ((h < heads)[:, None] & ((j >= 0) & (j < S))[None, :])[:, :, None]
        values = tl.load(to, mask=real & (c < DV)[None, None, :], other=0.0)
        acc = tl.dot(
            p.to(values.dtype), values, acc * fade[:, :, None], input_precision=P.precision
        )
        top = peak
    mass = tl.where(mass > 0, mass, 1.0)
    batches = tl.num_programs(1) // GROUPS
    to = ((part * batches + b).to(tl.int64) * heads + h[:, None]) * T + i[None, :]
    real = (h < heads)[:, None] & (i < T)[None, :]
    tl.store(lse + to, top + tl.log2(mass), mask=real)
    mask = real[:, :, None] & (c < DV)[None, None, :]
    tl.store(o + to[:, :, None] * DV + c[None, None, :], acc / mass[:, :, None], mask=mask)
