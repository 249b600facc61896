"""Edits of the output of plain attention, and closed forms of weights edits, in one pass each.

    pairs      o'[h] = o[2h] - lambda o[2h+1]
    Shaped     o'[h] = alpha_h v + beta_h o[h] - gamma_h mean,  mean[t] = sum_{s <= t} v[s] / (t+1)
    head norm  o'[h] = weight o[h] / sqrt(mean_c o[h, c]^2 + eps)

A program takes some tokens of one head: grid (token tiles, heads, B). The running mean is a sum
within the tile and the sums of the tiles before it, which ``tile_sums`` has made. Everything is
float32 inside. Operands are bundles (pointer, strides of b, h, t).
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import per_head


@triton.jit
def tokens(T: tl.tensor, D: tl.tensor, BT: tl.constexpr, DP: tl.constexpr) -> tuple:
    """Returns token numbers (BT, 1), channels (1, DP), and the mask of those that exist."""
    t = (tl.program_id(0) * BT + tl.arange(0, BT))[:, None]
    c = tl.arange(0, DP)[None, :]
    return t, c, (t < T) & (c < D)


@triton.jit
def read(x: tl.tuple, h: tl.tensor, t: tl.tensor, c: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Returns the channels c of head h at token t, in float32; 0 where masked."""
    at = x[0] + tl.program_id(2).to(tl.int64) * x[1] + h * x[2] + t * x[3] + c
    return tl.load(at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def write(
    x: tl.tuple, h: tl.tensor, t: tl.tensor, c: tl.tensor, mask: tl.tensor, tile: tl.tensor
) -> None:
    """Stores a tile at the channels c of head h at token t, in the tensor's dtype."""
    at = x[0] + tl.program_id(2).to(tl.int64) * x[1] + h * x[2] + t * x[3] + c
    tl.store(at, tile.to(x[0].dtype.element_ty), mask=mask)


@triton.jit
def subtract(
    o: tl.tuple,
    share: tl.tuple,
    out: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores the difference of the pairs. ``share`` is lambda as (pointer, strides of b, h, t); the
    strides are 0 where it is one number.
    """
    t, c, mask = tokens(T, D, BT, DP)
    h = tl.program_id(1)
    even, odd = read(o, 2 * h, t, c, mask), read(o, 2 * h + 1, t, c, mask)
    write(out, h, t, c, mask, even - read(share, h, t, 0, t < T) * odd)


@triton.jit
def subtract_backward(
    o: tl.tuple,
    share: tl.tuple,
    g: tl.tuple,
    do: tl.tuple,
    dshare: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores do and dshare (B, H, T), the gradient of each token's and pair's lambda."""
    t, c, mask = tokens(T, D, BT, DP)
    h = tl.program_id(1)
    g, odd = read(g, h, t, c, mask), read(o, 2 * h + 1, t, c, mask)
    write(do, 2 * h, t, c, mask, g)
    write(do, 2 * h + 1, t, c, mask, -read(share, h, t, 0, t < T) * g)
    write(dshare, h, t, 0, t < T, -tl.sum(g * odd, 1, keep_dims=True))


@triton.jit
def tile_sums(
    x: tl.tuple,
    out: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    SHARED: tl.constexpr,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores in ``out`` (B, H, tiles, D) the sum of each tile's tokens; with SHARED that of x[t] /
    (t + 1).
    """
    t, c, mask = tokens(T, D, BT, DP)
    h = tl.program_id(1)
    tile = read(x, h, t, c, mask)
    if SHARED:
        tile = tile / (t + 1)
    total = tl.sum(tile, 0, keep_dims=True)
    write(out, h, tl.full((1, 1), 0, tl.int32) + tl.program_id(0), c, c < D, total)


@triton.jit
def gain(x: tl.tensor, h: tl.tensor) -> tl.tensor:
    """Returns a parameter of a head, or 0 where there is none."""
    if x is None:
        return 0.0
    else:
        return tl.load(x + h).to(tl.float32)


@triton.jit
def sum_of_tiles(
    sums: tl.tuple, h: tl.tensor, begin: tl.tensor, end: tl.tensor, c: tl.tensor, D: tl.tensor
) -> tl.tensor:
    """Returns the sum (1, DP) of the tiles [begin, end) of ``tile_sums``."""
    found = tl.zeros((1, c.shape[1]), tl.float32)
    for first in range(begin, end, 32):
        n = first + tl.arange(0, 32)[:, None]
        found += tl.sum(read(sums, h, n, c, (n < end) & (c < D)), 0, keep_dims=True)
    return found


@triton.jit
def running_mean(
    tile: tl.tensor, sums: tl.tuple, h: tl.tensor, t: tl.tensor, c: tl.tensor, D: tl.tensor
) -> tl.tensor:
    """Returns the mean of all values up to each token, (BT, DP)."""
    return (tl.cumsum(tile, 0) + sum_of_tiles(sums, h, 0, tl.program_id(0), c, D)) / (t + 1)


@triton.jit
def shape(
    o: tl.tuple,
    v: tl.tuple,
    values: tl.tuple,
    alpha: tl.tensor,
    beta: tl.tensor,
    gamma: tl.tensor,
    out: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    GROUP: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores Shaped attention's output. GROUP maps share a value head; ``values`` are ``tile_sums``
    of v.
    """
    t, c, mask = tokens(T, D, BT, DP)
    h = tl.program_id(1)
    value = read(v, h // GROUP, t, c, mask)
    tile = gain(alpha, h) * value + gain(beta, h) * read(o, h, t, c, mask)
    if gamma is not None:
        tile -= gain(gamma, h) * running_mean(value, values, h // GROUP, t, c, D)
    write(out, h, t, c, mask, tile)


@triton.jit
def shape_backward(
    o: tl.tuple,
    v: tl.tuple,
    alpha: tl.tensor,
    beta: tl.tensor,
    gamma: tl.tensor,
    g: tl.tuple,
    shares: tl.tuple,
    do: tl.tuple,
    dv: tl.tuple,
    sums: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    GROUP: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores do and dv (B, H, T, D) of each map, and in ``sums`` (B, H, tiles, 3) the tile's part
    of the gradients of alpha, beta and gamma. ``shares`` are ``tile_sums`` of g / (t + 1).

        sum_t g[t] mean[t] = sum_s v[s] later[s],   later[s] = sum_{t >= s} g[t] / (t + 1)
    """
    t, c, mask = tokens(T, D, BT, DP)
    h, n = tl.program_id(1), tl.full((1, 1), 0, tl.int32) + tl.program_id(0)
    value, g = read(v, h // GROUP, t, c, mask), read(g, h, t, c, mask)
    write(do, h, t, c, mask, gain(beta, h) * g)
    write(sums, h, n, 0, n >= 0, per_head(g * value))
    write(sums, h, n, 1, n >= 0, per_head(g * read(o, h, t, c, mask)))
    down = gain(alpha, h) * g
    if gamma is not None:
        later = tl.cumsum(g / (t + 1), 0, reverse=True)
        later += sum_of_tiles(shares, h, tl.program_id(0) + 1, tl.num_programs(0), c, D)
        write(sums, h, n, 2, n >= 0, -per_head(value * later))
        down -= gain(gamma, h) * later
    write(dv, h, t, c, mask, down)


@triton.jit
def weight_of(weight: tl.tensor, c: tl.tensor, D: tl.tensor) -> tl.tensor:
    """Returns the norm's weight of the channels c, in float32; 0 beyond D."""
    return tl.load(weight + c, mask=c < D, other=0.0).to(tl.float32)


@triton.jit
def norm(
    o: tl.tuple,
    weight: tl.tensor,
    out: tl.tuple,
    size: tl.tuple,
    eps: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores the norm, and in ``size`` (B, H, T) 1 / sqrt(mean of squares + eps)."""
    t, c, mask = tokens(T, D, BT, DP)
    h = tl.program_id(1)
    x = read(o, h, t, c, mask)
    one = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / D + eps)
    write(size, h, t, 0, t < T, one)
    write(out, h, t, c, mask, x * one * weight_of(weight, c, D))


@triton.jit
def norm_backward(
    o: tl.tuple,
    weight: tl.tensor,
    g: tl.tuple,
    size: tl.tuple,
    do: tl.tuple,
    dweight: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores do, and in ``dweight`` (B, H, tiles, D) the tile's part of the weight's gradient."""
    t, c, mask = tokens(T, D, BT, DP)
    h, n = tl.program_id(1), tl.full((1, 1), 0, tl.int32) + tl.program_id(0)
    g, one = read(g, h, t, c, mask), read(size, h, t, 0, t < T)
    x = read(o, h, t, c, mask) * one
    write(dweight, h, n, c, c < D, tl.sum(g * x, 0, keep_dims=True))
    g = g * weight_of(weight, c, D)
    write(do, h, t, c, mask, one * (g - x * (tl.sum(g * x, 1, keep_dims=True) / D)))
