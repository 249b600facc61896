"""Products of tiles on the matrix units, and accumulators in registers or, too wide, in memory.

A width (of a head's channels) is padded to WP and taken in pieces of WC: one piece where the
accumulators of all heads of a tile fit in registers. Tokens of a tile are numbered from i or j on.
"""

import triton
import triton.language as tl

from softmap.ops.triton.fragments import across, along, anchored, load_sum, settled, store_sum
from softmap.ops.triton.tiles import load, store


@triton.jit
def zeros(HT: tl.constexpr, M: tl.constexpr, N: tl.constexpr) -> tl.tensor:
    """Returns a float32 tile of zeros: [M, N] for one head (HT = 0), else [HT, M, N]."""
    if HT == 0:
        return tl.zeros((M, N), tl.float32)
    else:
        return tl.zeros((HT, M, N), tl.float32)


@triton.jit
def operand(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    i: tl.tuple,
    begin: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    M: tl.constexpr,
    C: tl.constexpr,
    WHOLE: tl.constexpr,
    SUMMED: tl.constexpr,
) -> tl.tensor:
    """Returns x[b, h, i:, begin:] as a tile [.., M, C]. SUMMED is "channels" or "tokens"."""
    if len(h.shape) == 2:
        i = (i + tl.arange(0, M))[:, None]
        return load(x, b, h, i, begin + tl.arange(0, C)[None, :], heads, tokens, W)
    elif SUMMED == "channels":
        return across(x, b, h, i, begin, heads, tokens, W, M, C, WHOLE)
    else:
        return along(x, b, h, i, begin, heads, tokens, W, M, C, WHOLE)


@triton.jit
def held(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    i: tl.tuple,
    heads: tl.tensor,
    tokens: tl.tensor,
    W: tl.constexpr,
    M: tl.constexpr,
    WP: tl.constexpr,
    WC: tl.constexpr,
) -> tl.tensor:
    """Returns the tile that a program reads in every step, if its width is one piece; else 0."""
    if WP == WC:
        return operand(x, b, h, i, 0, heads, tokens, W, M, WC, False, "channels")
    else:
        return 0


@triton.jit
def product(
    xt: tl.tensor,
    x: tl.tuple,
    xh: tl.tensor,
    i: tl.tuple,
    y: tl.tuple,
    yh: tl.tensor,
    j: tl.tuple,
    b: tl.tensor,
    NX: tl.constexpr,
    NY: tl.constexpr,
    TX: tl.tensor,
    TY: tl.tensor,
    W: tl.constexpr,
    HT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WP: tl.constexpr,
    WC: tl.constexpr,
    PRECISION: tl.constexpr,
    KEYS_FIRST: tl.constexpr,
) -> tl.tensor:
    """Returns x y^T, a tile [.., M, N] of the map, with the width W in pieces of WC; xt is
    ``held``.
    """
    WHOLE: tl.constexpr = W == WP and (NX == HT or NY == HT)
    s = zeros(HT, M, N)
    if WP == WC:
        yt = operand(y, b, yh, j, 0, NY, TY, W, N, WC, WHOLE, "channels")
        s = across_channels(xt, yt, s, PRECISION)
    else:
        for begin in tl.range(0, WP, WC, num_stages=1):
            part = operand(x, b, xh, i, begin, NX, TX, W, M, WC, WHOLE, "channels")
            yt = operand(y, b, yh, j, begin, NY, TY, W, N, WC, WHOLE, "channels")
            s = across_channels(part, yt, s, PRECISION)
    if HT != 0:
        s = settled(s, KEYS_FIRST, y[0].dtype.element_ty)
    return s


@triton.jit
def across_channels(x: tl.tensor, y: tl.tensor, s: tl.tensor, PRECISION: tl.constexpr) -> tl.tensor:
    """Returns s + x y^T, of one head's tiles or of several heads' at once."""
    y = tl.permute(y, (0, 2, 1)) if len(y.shape) == 3 else tl.trans(y)
    return tl.dot(x, y, s, input_precision=PRECISION)


@triton.jit
def start(HT: tl.constexpr, M: tl.constexpr, WP: tl.constexpr, WC: tl.constexpr) -> tl.tensor:
    """Returns an accumulator in registers, if the width is one piece; else 0."""
    if WP == WC:
        return zeros(HT, M, WP)
    else:
        return 0


@triton.jit
def accumulate(
    acc: tl.tensor,
    out: tl.tuple,
    oh: tl.tensor,
    i: tl.tensor,
    m: tl.tensor,
    y: tl.tuple,
    yh: tl.tensor,
    j: tl.tuple,
    b: tl.tensor,
    NO: tl.constexpr,
    NY: tl.constexpr,
    TO: tl.tensor,
    TY: tl.tensor,
    W: tl.constexpr,
    WP: tl.constexpr,
    WC: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """Returns acc + m y; where the widths of all heads do not fit in registers, adds it to ``out``
    in memory, piece by piece.

    i is the first row of ``out``, j that of y. The memory is float32 and this program's own.
    """
    M: tl.constexpr = m.shape[len(m.shape) - 2]
    N: tl.constexpr = m.shape[len(m.shape) - 1]
    WHOLE: tl.constexpr = W == WP and m.shape[0] == NO
    m = m.to(y[0].dtype.element_ty)
    if len(m.shape) == 3:
        m = anchored(m)
    if WP == WC:
        yt = operand(y, b, yh, j, 0, NY, TY, W, N, WC, WHOLE, "tokens")
        return tl.dot(m, yt, acc, input_precision=PRECISION)
    else:
        for begin in tl.range(0, WP, WC, num_stages=1):
            yt = operand(y, b, yh, j, begin, NY, TY, W, N, WC, WHOLE, "tokens")
            part = load_sum(out, b, oh, i, begin, NO, TO, W, M, WC)
            part = tl.dot(m, yt, part, input_precision=PRECISION)
            store_sum(out, b, oh, i, begin, NO, TO, W, part)
        return acc


@triton.jit
def finish(
    acc: tl.tensor,
    out: tl.tuple,
    oh: tl.tensor,
    i: tl.tensor,
    b: tl.tensor,
    NO: tl.tensor,
    TO: tl.tensor,
    W: tl.constexpr,
    M: tl.constexpr,
    WP: tl.constexpr,
    WC: tl.constexpr,
) -> None:
    """Write an accumulator that was kept in registers."""
    if len(oh.shape) == 2:
        store(out, b, oh, (i + tl.arange(0, M))[:, None], tl.arange(0, WP)[None, :], NO, TO, W, acc)
    elif WP == WC:
        store_sum(out, b, oh, i, 0, NO, TO, W, acc)
