"""Products of tiles on the matrix units, and accumulators in registers or, too wide, in memory.

A width (of a head's channels) is padded to WP and taken in pieces of WC: one piece where the
accumulators of all heads of a tile fit in registers.
"""

import triton
import triton.language as tl

from softmap.ops.triton.tiles import load, store


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """acc + a b on the matrix units, in the dtype of b, which came from memory."""
    return tl.dot(a.to(b.dtype), b, acc, input_precision=PRECISION)


@triton.jit
def zeros(HT: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """A float32 tile: [M, N] for one head (HT = 0), else [HT, M, N]."""
    if HT == 0:
        return tl.zeros((M, N), tl.float32)
    else:
        return tl.zeros((HT, M, N), tl.float32)


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
