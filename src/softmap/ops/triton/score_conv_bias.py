"""Tile functions of the position biases inside of the score convolution, with their adjoints.

Each bias reads one float32 array of parameters, and adds their gradients to one of the same layout:

    alibi   slopes (H)
    kerple  p (H), a (H)
    fire    w1 (F), b1 (F), w2 (H, F), b2 (H), c, length

H heads and F hidden channels are padded with zeros to powers of two.
"""

import triton
import triton.language as tl

from softmap.ops.triton.score_conv_tiles import add_to
from softmap.ops.triton.tiles import LN2, log2


@triton.jit
def seen_bias(t: tl.tensor, h: tl.tuple, at: tl.tuple, P: tl.constexpr) -> tl.tensor:
    """Returns the bias (K, R, C) of heads h (K), zero where not visible."""
    KIND: tl.constexpr = P.bias
    H: tl.constexpr = P.heads
    gap = at[4][None]
    if KIND == "alibi":
        b = -tl.load(t + h)[:, None, None] * gap
    elif KIND == "kerple":
        p, a = tl.load(t + h)[:, None, None], tl.load(t + H + h)[:, None, None]
        b = -(p * LN2) * log2(1.0 + a * gap)
    else:
        b = fire(t, h, at, P)
    return tl.where(at[3][None], b, 0.0)


@triton.jit
def bias_adjoint(
    to: tl.tensor, t: tl.tensor, h: tl.tuple, db: tl.tuple, at: tl.tuple, P: tl.constexpr
) -> None:
    """Add the parameters' gradients; db (K, R, C) is that of the bias, zero where unused."""
    KIND: tl.constexpr = P.bias
    H: tl.constexpr = P.heads
    gap = at[4][None]
    if KIND == "alibi":
        add_to(to + h, -total(db * gap))
    elif KIND == "kerple":
        a = tl.load(t + H + h)[:, None, None]
        x = 1.0 + a * gap
        add_to(to + h, total(db * log2(x)) * -LN2)
        add_to(to + H + h, -tl.load(t + h) * total(db * gap / x))
    else:
        fire_adjoint(to, t, h, db, at, P)


@triton.jit
def total(x: tl.tensor) -> tl.tensor:
    """Returns the sums (K) of x (K, R, C), over flat cells: row by row the warps would exchange
    every row's sum.
    """
    return tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] * x.shape[2])), 1)


@triton.jit
def fire(t: tl.tensor, h: tl.tensor, at: tl.tuple, P: tl.constexpr) -> tl.tensor:
    """Returns the bias FIRE of the heads h on a tile, (heads, rows, keys)."""
    F: tl.constexpr = P.fire
    H: tl.constexpr = P.heads
    x, _, _ = fire_place(t, at, P)
    b = tl.dot(fire_mix(t, h, F), fire_hidden(t, x, F), input_precision=P.precision)
    b = tl.reshape(b, (h.shape[0], x.shape[0], x.shape[1]))
    return b + tl.load(t + 2 * F + H * F + h)[:, None, None]


@triton.jit
def fire_place(t: tl.tensor, at: tl.tuple, P: tl.constexpr) -> tuple:
    """Returns x = log(1 + c gap) / log(1 + c reach), its denominator and reach."""
    F: tl.constexpr = P.fire
    H: tl.constexpr = P.heads
    end = t + 2 * F + H * F + H
    c = tl.load(end)
    reach = tl.maximum(at[5], tl.load(end + 1))[:, None]
    bottom = log2(1.0 + c * reach) * LN2
    return log2(1.0 + c * at[4]) * LN2 / bottom, bottom, reach


@triton.jit
def fire_hidden(t: tl.tensor, x: tl.tensor, F: tl.constexpr) -> tl.tensor:
    """Returns the hidden channels (F, R C) at places x (R, C)."""
    f = tl.arange(0, F)
    u = tl.load(t + f)[:, None, None] * x[None] + tl.load(t + F + f)[:, None, None]
    return tl.reshape(tl.maximum(u, 0.0), (F, x.shape[0] * x.shape[1]))


@triton.jit
def fire_mix(t: tl.tensor, h: tl.tensor, F: tl.constexpr) -> tl.tensor:
    """Returns the second layer's weights (K, F) of heads h."""
    return tl.load(t + 2 * F + h[:, None] * F + tl.arange(0, F)[None, :])


@triton.jit
def fire_adjoint(
    to: tl.tensor, t: tl.tensor, h: tl.tensor, db: tl.tensor, at: tl.tuple, P: tl.constexpr
) -> None:
    """Adds the gradients of FIRE's numbers, given db of the bias of the heads h, to ``to``."""
    F: tl.constexpr = P.fire
    H: tl.constexpr = P.heads
    f = tl.arange(0, F)
    x, bottom, reach = fire_place(t, at, P)
    u = fire_hidden(t, x, F)
    add_to(to + 2 * F + H * F + h, total(db))
    flat = tl.reshape(db, (h.shape[0], u.shape[1]))
    mix = to + 2 * F + h[:, None] * F + f[None, :]
    add_to(mix, tl.dot(flat, tl.trans(u), input_precision=P.precision))
    du = tl.dot(tl.trans(fire_mix(t, h, F)), flat, input_precision=P.precision)
    du = tl.reshape(tl.where(u > 0, du, 0.0), (F, x.shape[0], x.shape[1]))
    add_to(to + f, total(du * x[None]))
    add_to(to + F + f, total(du))
    dx = tl.sum(du * tl.load(t + f)[:, None, None], 0) / bottom
    fire_scalars(to + 2 * F + H * F + H, t + 2 * F + H * F + H, dx, x, reach, at)


@triton.jit
def fire_scalars(
    to: tl.tensor, t: tl.tensor, dx: tl.tensor, x: tl.tensor, reach: tl.tensor, at: tl.tuple
) -> None:
    """Add the gradients of c and length; dx (R, C) is that of x times its denominator's inverse."""
    c, row = tl.load(t), at[5][:, None]
    of_reach = 1.0 + c * reach
    dc = dx * (at[4] / (1.0 + c * at[4]) - x * reach / of_reach)
    add_to(to, tl.sum(dc))
    # Where a row equals the length, each gets half of the gradient, as in torch.
    length = tl.load(t + 1)
    share = tl.where(row < length, 1.0, tl.where(row == length, 0.5, 0.0))
    add_to(to + 1, -tl.sum(dx * x * c / of_reach * share))
