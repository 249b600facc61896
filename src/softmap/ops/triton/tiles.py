"""Tile functions that every kernel is made of: loads, the mask, scores, chains of edits.

A tile of the map is [H, rows, keys] where edits mix heads and [rows, keys], one head a program,
where they do not; ``backward.keys`` has the last two axes exchanged. All index tensors broadcast:
h is [H, 1, 1] or [1, 1], i is [rows, 1], j is [1, keys] (or [1, rows] and [keys, 1]). So one
tile function serves all.

``at`` is where a tile lies: (b, h, i, j, see, T, S, offset, part). see: what is visible; offset:
place of query 0 among the keys; part: number of the program among those that add up the gradients
of tensors that all tokens share.
"""

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def load(x, b, h, i, c, heads, tokens, width):
    """x[b, h, i, c] as a tile, zero outside; x = (pointer, strides of b, h, i)."""
    at = x[0] + b * x[1] + h * x[2] + i * x[3] + c
    return tl.load(at, mask=(h < heads) & (i < tokens) & (c < width), other=0.0)


@triton.jit
def store(x, b, h, i, c, heads, tokens, width, tile):
    """The counterpart of ``load``, in the dtype of x."""
    at = x[0] + b * x[1] + h * x[2] + i * x[3] + c
    mask = (h < heads) & (i < tokens) & (c < width)
    tl.store(at, tile.to(x[0].dtype.element_ty), mask=mask)


@triton.jit
def visible(until, b, i, j, offset, S):
    """[rows, keys]: row at place p = i + offset sees key j iff j <= p < until[j]."""
    end = tl.load(until[0] + b * until[1] + j, mask=j < S, other=0)
    return (j <= i + offset) & (i + offset < end)


@triton.jit
def hide(m, until, b, i, j, offset, S, fill):
    """``fill`` where the tile is not visible; tiles that are seen whole cost no comparison."""
    end = tl.load(until[0] + b * until[1] + j, mask=j < S, other=0)
    if (tl.max(j) > tl.min(i) + offset) | (tl.max(i) + offset >= tl.min(end)):
        m = tl.where((j <= i + offset) & (i + offset < end), m, fill)
    return m


@triton.jit
def key_head(h, HEADS: tl.constexpr):
    """The key head that map h reads: ``ops.heads.Heads.key_of_map``."""
    maps: tl.constexpr = HEADS[0] // HEADS[3]
    halves: tl.constexpr = HEADS[1] // HEADS[2]
    group: tl.constexpr = HEADS[3] // HEADS[2]
    return h // (maps * group) * halves + (h % maps) % halves


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b on the matrix units, in the dtype of b, which came from memory."""
    return tl.dot(a.to(b.dtype), b, acc, input_precision=PRECISION)


@triton.jit
def held(x, b, h, i, heads, tokens, W, WP: tl.constexpr, WC: tl.constexpr):
    """The tile that a program reads in every step, if it is kept: if its width is one piece."""
    if WP == WC:
        return load(x, b, h, i, tl.arange(0, WC)[None, :], heads, tokens, W)
    else:
        return 0


@triton.jit
def product(xt, x, xh, i, y, yh, j, b, NX, NY, TX, TY, W, HT: tl.constexpr, WP: tl.constexpr,
            WC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """x y^T, a tile of the map, the width W in pieces of WC; xt is ``held``. i [M, 1], j [1, N]."""
    s = zeros(HT, i.shape[0], j.shape[1])
    if WP == WC:
        yt = load(y, b, yh, j, tl.arange(0, WC)[:, None], NY, TY, W)
        return dot(xt, yt, s, PRECISION)
    else:
        for begin in tl.range(0, WP, WC, num_stages=1):
            c = begin + tl.arange(0, WC)
            yt = load(y, b, yh, j, c[:, None], NY, TY, W)
            s = dot(load(x, b, xh, i, c[None, :], NX, TX, W), yt, s, PRECISION)
        return s


@triton.jit
def start(HT: tl.constexpr, M: tl.constexpr, WP: tl.constexpr, WC: tl.constexpr):
    """An accumulator in registers, if the width is one piece."""
    if WP == WC:
        return zeros(HT, M, WP)
    else:
        return 0


@triton.jit
def accumulate(acc, out, oh, i, m, y, yh, j, b, NO, NY, TO, TY, W, WP: tl.constexpr,
               WC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """acc + m y; where all heads' widths do not fit in registers, in memory, piece by piece.

    i [M, 1] are rows of ``out``, j [N, 1] those of y. The memory is this program's own (float32).
    """
    if WP == WC:
        yt = load(y, b, yh, j, tl.arange(0, WC)[None, :], NY, TY, W)
        return dot(m, yt, acc, PRECISION)
    else:
        for begin in tl.range(0, WP, WC, num_stages=1):
            c = (begin + tl.arange(0, WC))[None, :]
            part = load(out, b, oh, i, c, NO, TO, W)
            part = dot(m, load(y, b, yh, j, c, NY, TY, W), part, PRECISION)
            store(out, b, oh, i, c, NO, TO, W, part)
        tl.debug_barrier()
        return acc


@triton.jit
def finish(acc, out, oh, i, b, NO, TO, W, WP: tl.constexpr, WC: tl.constexpr):
    """Write an accumulator that was kept in registers."""
    if WP == WC:
        store(out, b, oh, i, tl.arange(0, WP)[None, :], NO, TO, W, acc)


@triton.jit
def load_row(x, b, h, i, heads, tokens):
    """A number per head and row, [.., rows, 1]; x = (pointer, strides of b, h), rows adjacent."""
    place = x[0] + b * x[1] + h * x[2] + i
    return tl.load(place, mask=(h < heads) & (i < tokens), other=0.0)


@triton.jit
def store_row(x, b, h, i, heads, tokens, value):
    place = x[0] + b * x[1] + h * x[2] + i
    tl.store(place, value, mask=(h < heads) & (i < tokens))


@triton.jit
def head_tile(HT: tl.constexpr, number):
    """All heads at once, [H, 1, 1], or the head of this program, [1, 1] (HT = 0)."""
    if HT == 0:
        return tl.full((1, 1), 0, tl.int32) + number
    else:
        return tl.arange(0, HT)[:, None, None]


@triton.jit
def zeros(HT: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """A float32 tile: [M, N] for one head (HT = 0), else [HT, M, N]."""
    if HT == 0:
        return tl.zeros((M, N), tl.float32)
    else:
        return tl.zeros((HT, M, N), tl.float32)


@triton.jit
def heads_of(m, at):
    """Head numbers of the tile ``m``, as they broadcast to it."""
    if len(m.shape) == 3:
        return tl.arange(0, m.shape[0])[:, None, None]
    else:
        return at[1]


@triton.jit
def per_head(m):
    """The tile summed over its cells."""
    if len(m.shape) == 3:
        return tl.sum(tl.sum(m, 2, keep_dims=True), 1, keep_dims=True)
    else:
        return tl.sum(tl.sum(m, 1, keep_dims=True), 0, keep_dims=True)


@triton.jit
def along(m):
    """The tile summed over the axis that its kernel walks: keys of a row, or rows of a key."""
    return tl.sum(m, len(m.shape) - 1, keep_dims=True)


@triton.jit
def trace(EDITS: tl.constexpr, OPTIONS: tl.constexpr, args, m, at):
    """The tile before, between and after the edits of a chain."""
    tiles = (m,)
    for n in tl.static_range(len(EDITS)):
        m = EDITS[n](m, at, args[n], OPTIONS[n])
        tiles = tiles + (m,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def edited(EDITS: tl.constexpr, OPTIONS: tl.constexpr, args, m, at):
    """The tile after the chain."""
    return trace(EDITS, OPTIONS, args, m, at)[len(EDITS)]


@triton.jit
def pulled(ADJOINTS: tl.constexpr, OPTIONS: tl.constexpr, args, grads, tiles, g, at,
           SIDE: tl.constexpr):  # fmt: skip
    """The gradient of the chain's input from that of its output, through the adjoints.

    SIDE: whose gradients are added up on the way: "rows" (tensors of queries and of the layer),
    "keys", or "" (none).
    """
    for n in tl.static_range(len(ADJOINTS)):
        k: tl.constexpr = len(ADJOINTS) - 1 - n
        g = ADJOINTS[k](tiles[k], g, at, args[k], grads[k], OPTIONS[k], SIDE)
    return g
