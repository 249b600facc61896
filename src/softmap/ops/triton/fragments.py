"""Operands of products of all heads at once, read as the matrix units take them.

A warp multiplies a few heads (or, for mixes over heads, a few tokens); each lane holds a fixed part
of both operands and of the sum. Triton would read a tile in another order and exchange it through
shared memory, where a warp's rows of a three-dimensional tile fall on the same banks. Here a tile
is read flat, in the lanes' own order, 16 bytes a lane, and then only renamed by reshapes:

    lane = 4 g + l;  of a (16 x 8 n, n channels) piece a lane holds, of the
    left operand   rows g, g + 8        columns 2 l, 2 l + 1, 2 l + 8, 2 l + 9
    right operand  columns g, g + 8 ..  rows    2 l, 2 l + 1, 2 l + 8, 2 l + 9
    sum            rows g, g + 8        columns 2 l, 2 l + 1 of each 8

Channels that are summed over may come in any order, if both operands use the same one, and those
of a sum too, if it is stored in that order: so that a lane's channels are neighbours in memory.
Rows past the last token repeat it; what they give is masked or never stored.
"""

import triton
import triton.language as tl


@triton.jit
def read(
    at: tl.tuple, h: tl.tensor, c: tl.tensor, heads: tl.tensor, W: tl.constexpr, WHOLE: tl.constexpr
) -> tl.tensor:
    """Returns numbers from memory, zero in padding of heads or channels; WHOLE: there is none."""
    if WHOLE:
        return tl.load(at)
    else:
        return tl.load(at, mask=(h < heads) & (c < W), other=0.0)


@triton.jit
def across(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    at: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Returns [H, N, C] of x from token ``at`` and channel ``begin`` on, as a product takes it that
    sums over channels.

    Of every 4 E channels lane l has E neighbours: 4 in each of E / 4 pieces of 16.
    """
    H: tl.constexpr = h.shape[0]
    E: tl.constexpr = 8 if C >= 32 else 4
    Q: tl.constexpr = C // (4 * E)
    r, n = tl.arange(0, N // 8 * Q)[:, None, None], tl.arange(0, 32 * E)[None, None, :]
    h = tl.permute(h, (1, 0, 2))
    i = tl.minimum(at + r // Q * 8 + n // (4 * E), tokens - 1)
    c = begin + r % Q * (4 * E) + n % (4 * E)
    tile = read(x[0] + b * x[1] + h * x[2] + i * x[3] + c, h, c, heads, W, WHOLE)
    tile = tl.reshape(tile, (N // 8, Q, H, 8, 4, E // 4, 2, 2))
    return tl.reshape(tl.permute(tile, (2, 0, 3, 1, 5, 6, 4, 7)), (H, N, C))


@triton.jit
def along(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    at: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    N: tl.constexpr,
    C: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Returns [H, N, C] of x from token ``at`` and channel ``begin`` on, as a product takes it that
    sums over tokens.

    Of every 8 E channels lane g has E neighbours, one in each piece of 8.
    """
    H: tl.constexpr = h.shape[0]
    E: tl.constexpr = 8 if C >= 64 else C // 8
    Q: tl.constexpr = C // (8 * E)
    r, n = tl.arange(0, N // 4 * Q)[:, None, None], tl.arange(0, 32 * E)[None, None, :]
    h = tl.permute(h, (1, 0, 2))
    i = at + r // Q // 4 * 16 + r // Q // 2 % 2 * 8 + r // Q % 2 + n // E % 4 * 2
    c = begin + r % Q * (8 * E) + n // (4 * E) * E + n % E
    at = x[0] + b * x[1] + h * x[2] + tl.minimum(i, tokens - 1) * x[3] + c
    tile = tl.reshape(read(at, h, c, heads, W, WHOLE), (N // 16, 2, 2, Q, H, 8, 4, E))
    return tl.reshape(tl.permute(tile, (4, 0, 1, 6, 2, 3, 7, 5)), (H, N, C))


@triton.jit
def places(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    at: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
) -> tuple:
    """Returns pointers and mask of a sum [H, M, C] over the tokens of ``along``."""
    E: tl.constexpr = 8 if C >= 64 else C // 8
    Q: tl.constexpr = C // (8 * E)
    r, n = tl.arange(0, M // 8 * Q * (E // 2))[:, None, None], tl.arange(0, 128)[None, None, :]
    h = tl.permute(h, (1, 0, 2))
    i = at + r // (E // 2) // Q * 8 + n // 16
    c = begin + r // (E // 2) % Q * (8 * E) + n // 4 % 4 * (2 * E) + r % (E // 2) * 4 + n % 4
    mask = (h < heads) & (i < tokens) & (c < W)
    return x[0] + b * x[1] + h * x[2] + i * x[3] + c, mask


@triton.jit
def load_sum(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    at: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
) -> tl.tensor:
    """Returns what ``store_sum`` stored."""
    H: tl.constexpr = h.shape[0]
    E: tl.constexpr = 8 if C >= 64 else C // 8
    Q: tl.constexpr = C // (8 * E)
    place, mask = places(x, b, h, at, begin, heads, tokens, W, M, C)
    tile = tl.reshape(tl.load(place, mask, other=0.0), (M // 8, Q, E // 2, H, 8, 4, 4))
    tile = tl.reshape(tl.permute(tile, (3, 0, 4, 1, 5, 2, 6)), (H, M, Q, 4, 2, E))
    return tl.reshape(tl.permute(tile, (0, 1, 2, 5, 3, 4)), (H, M, C))


@triton.jit
def store_sum(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    at: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    tile: tl.tensor,
) -> None:
    """Stores a sum [H, M, C] over the tokens of ``along`` into x, in its dtype."""
    H: tl.constexpr = tile.shape[0]
    M: tl.constexpr = tile.shape[1]
    C: tl.constexpr = tile.shape[2]
    E: tl.constexpr = 8 if C >= 64 else C // 8
    Q: tl.constexpr = C // (8 * E)
    place, mask = places(x, b, h, at, begin, heads, tokens, W, M, C)
    tile = tl.permute(tl.reshape(tile, (H, M, Q, E, 4, 2)), (0, 1, 2, 4, 5, 3))
    tile = tl.permute(tl.reshape(tile, (H, M // 8, 8, Q, 4, E // 2, 4)), (1, 3, 5, 0, 2, 4, 6))
    tile = tl.reshape(tile, (M // 8 * Q * (E // 2), H, 128))
    tl.store(place, tile.to(x[0].dtype.element_ty), mask)


@triton.jit
def matrices(
    x: tl.tuple, b: tl.tensor, at: tl.tuple, tokens: tl.tensor, H: tl.constexpr, N: tl.constexpr
) -> tl.tensor:
    """Returns a matrix over the heads for each token, [N, H in, H out], as ``matrices.ordered``
    stored them.
    """
    K: tl.constexpr = H // 16
    n = tl.minimum(at + tl.arange(0, N), tokens - 1)[None, :, None]
    c = tl.arange(0, K * K)[:, None, None] * 256 + tl.arange(0, 256)[None, None, :]
    w = tl.reshape(tl.load(x[0] + b * x[1] + n * x[2] + c), (K, K, N, 8, 4, 2, 2, 2))
    return tl.reshape(tl.permute(w, (2, 0, 6, 4, 7, 1, 5, 3)), (N, H, H))


@triton.jit
def add_matrices(x: tl.tuple, b: tl.tensor, at: tl.tuple, w: tl.tensor) -> None:
    """Adds w [N, H in, H out] to x, which has room for whole tiles and is read by
    ``matrices.natural``.
    """
    N: tl.constexpr = w.shape[0]
    H: tl.constexpr = w.shape[1]
    K: tl.constexpr = H // 16
    n = (at + tl.arange(0, N))[None, :, None]
    c = tl.arange(0, 2 * K * K)[:, None, None] * 128 + tl.arange(0, 128)[None, None, :]
    w = tl.permute(tl.reshape(w, (N, K, 2, 8, K, 2, 4, 2)), (1, 4, 2, 0, 3, 6, 5, 7))
    w = tl.reshape(w, (2 * K * K, N, 128))
    tl.atomic_add(x[0] + b * x[1] + n * x[2] + c, w, sem="relaxed")


@triton.jit
def anchored(m: tl.tensor) -> tl.tensor:
    """Returns m in the layout of a product's sum, which Triton exchanges without bank conflicts.

    Half precision passes a product by zero as bits of float16; bfloat16 below 2^121 is finite so.
    """
    if m.dtype == tl.float32:
        return m
    else:
        left = tl.zeros((m.shape[0], m.shape[1], 16), tl.float16)
        right = tl.zeros((m.shape[0], 16, m.shape[2]), tl.float16)
        bits = tl.dot(left, right, m.to(tl.float16, bitcast=True), out_dtype=tl.float16)
        return bits.to(m.dtype, bitcast=True)


@triton.jit
def cells(m: tl.tensor, KEYS_FIRST: tl.constexpr) -> tl.tensor:
    """Returns a tile [H, rows, keys], or [H, keys, rows], as [rows, keys, H]."""
    if KEYS_FIRST:
        return tl.permute(m, (2, 1, 0))
    else:
        return tl.permute(m, (1, 2, 0))


@triton.jit
def tile_of(m: tl.tensor, KEYS_FIRST: tl.constexpr) -> tl.tensor:
    """Returns the inverse of ``cells``."""
    if KEYS_FIRST:
        return tl.permute(m, (2, 1, 0))
    else:
        return tl.permute(m, (2, 0, 1))


@triton.jit
def settled(m: tl.tensor, KEYS_FIRST: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """Returns the float32 tile m with its ``cells`` in the layout of a product's sum, as mixes need
    it.
    """
    if dtype != tl.float32:
        m = cells(m, KEYS_FIRST)
        left = tl.zeros((m.shape[0], m.shape[1], 16), dtype)
        m = tl.dot(left, tl.zeros((m.shape[0], 16, m.shape[2]), dtype), m)
        m = tile_of(m, KEYS_FIRST)
    return m
