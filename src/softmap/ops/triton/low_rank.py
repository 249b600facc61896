"""DCMHA's composition of low rank, one head a program: tile code, and sums over the heads.

    a'[h] = (1 + qg[i,h] + kg[j,h]) a[h] + sum_r q2[i,r,h] Q_r + sum_r k2[j,r,h] K_r

    Q_r[i,j] = sum_h q1[i,r,h] a[h,i,j]        K_r[i,j] = sum_h k1[j,r,h] a[h,i,j]

The maps Q_r and K_r are few (r is 1 or 2) and made beforehand, a block of query rows at a time: of
the scores by torch's matrix products, of the weights by ``sums_over_heads``. With them at hand no
head needs another. Of the weights' composition only the first term is in the tiles: the maps'
terms act on the output (``low_rank_launch``). The adjoint of either has the same form, with the
factors exchanged:

    da[h] = (1 + qg + kg) da'[h] + sum_r q1[i,r,h] dQ_r + ...,   dQ_r = sum_h q2[i,r,h] da'[h]

Tensors of an edit, t = (factors of the rows, gains of the rows, factors of the keys, gains of the
keys, maps Q, maps K), each a bundle or None. Factors (B, r, H, tokens) are those that stay at the
map's own head: q2 and k2 of the scores, q1 and k1 of the weights; gains are (B, H, tokens), maps
(B, r, T, S). They lie in memory that continues, filled with finite numbers, to the end of the last
tile, so that no read is masked: what the mask of the call excludes is hidden anyway.
"""

import triton
import triton.language as tl

from softmap.ops.triton.backward import recomputed
from softmap.ops.triton.chains import along, pulled, trace
from softmap.ops.triton.products import held, product
from softmap.ops.triton.tiles import key_head, latest, load_row


@triton.jit
def gain_at(t: tl.tuple, at: tl.tuple, n: tl.tensor) -> tl.tensor:
    """Returns the places of a gain at the tokens n."""
    return t[0] + (at[0] * t[1] + at[1] * t[2]) + n


@triton.jit
def factor_at(t: tl.tuple, at: tl.tuple, n: tl.tensor, r: tl.constexpr) -> tl.tensor:
    """Returns the places of the factor r at the tokens n."""
    return t[0] + (at[0] * t[1] + r * t[2] + at[1] * t[3]) + n


@triton.jit
def cell(t: tl.tuple, at: tl.tuple, r: tl.constexpr) -> tl.tensor:
    """Returns the tile of the map r."""
    return tl.load(t[0] + (at[0] * t[1] + r * t[2]) + (at[2] * t[3] + at[3])).to(tl.float32)


@triton.jit
def row_factor(t: tl.tuple, at: tl.tuple, r: tl.constexpr) -> tl.tensor:
    """Returns the factor r of the rows."""
    return tl.load(factor_at(t, at, at[2], r)).to(tl.float32)


@triton.jit
def col_factor(t: tl.tuple, at: tl.tuple, r: tl.constexpr) -> tl.tensor:
    """Returns the factor r of the keys."""
    return tl.load(factor_at(t, at, at[3], r)).to(tl.float32)


@triton.jit
def gained(m: tl.tensor, at: tl.tuple, t: tl.tuple) -> tl.tensor:
    """Returns (1 + qg + kg) m."""
    gain = 1.0
    if t[1] is not None:
        gain += tl.load(gain_at(t[1], at, at[2])).to(tl.float32)
    if t[3] is not None:
        gain += tl.load(gain_at(t[3], at, at[3])).to(tl.float32)
    return gain * m


@triton.jit
def with_maps(out: tl.tensor, at: tl.tuple, t: tl.tuple, RANK: tl.constexpr) -> tl.tensor:
    """Returns out + sum_r (rows' factors) Q_r + sum_r (keys' factors) K_r."""
    for r in tl.static_range(RANK):
        if t[4] is not None:
            out += row_factor(t[0], at, r) * cell(t[4], at, r)
        if t[5] is not None:
            out += col_factor(t[2], at, r) * cell(t[5], at, r)
    return out


@triton.jit
def add_gradients(
    x: tl.tensor,
    xm: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    RANK: tl.constexpr,
    SIDE: tl.constexpr,
) -> None:
    """Adds this tile's part of the gradients of one side: sum x Q_r of factors, sum xm of gains."""
    if SIDE == "rows":
        if d[1] is not None:
            tl.atomic_add(gain_at(d[1], at, at[2]), along(xm), mask=at[2] < at[5], sem="relaxed")
        if d[0] is not None:
            for r in tl.static_range(RANK):
                tl.atomic_add(factor_at(d[0], at, at[2], r), along(x * cell(t[4], at, r)),
                              mask=at[2] < at[5], sem="relaxed")  # fmt: skip
    if SIDE == "keys":
        if d[3] is not None:
            tl.atomic_add(gain_at(d[3], at, at[3]), along(xm), mask=at[3] < at[6], sem="relaxed")
        if d[2] is not None:
            for r in tl.static_range(RANK):
                tl.atomic_add(factor_at(d[2], at, at[3], r), along(x * cell(t[5], at, r)),
                              mask=at[3] < at[6], sem="relaxed")  # fmt: skip


@triton.jit
def scores(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns the composed scores of one head."""
    return with_maps(gained(m, at, t), at, t, OPTIONS // 65536)


@triton.jit
def scores_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gained part of the scores' gradient; the maps' part goes through matrix products.
    Adds the gradients of factors and gains to ``d``.
    """
    add_gradients(g, g * m, at, t, d, OPTIONS // 65536, SIDE)
    return gained(g, at, t)


@triton.jit
def weights(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns the gained weights of one head, without what the maps add."""
    return gained(m, at, t)


@triton.jit
def weights_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the weights' whole gradient, with the gradients dQ and dK of the maps in ``t``. Adds
    the gradients of factors and gains to ``d``.
    """
    add_gradients(m, g * m, at, t, d, OPTIONS // 65536, SIDE)
    return with_maps(gained(g, at, t), at, t, OPTIONS // 65536)


@triton.jit
def store_map(out: tl.tuple, at: tl.tuple, r: tl.constexpr, tile: tl.tensor) -> None:
    """Stores the tile of the map r."""
    place = out[0] + at[0] * out[1] + r * out[2] + at[2] * out[3] + at[3]
    mask = (at[2] < at[5]) & (at[3] < at[6])
    tl.store(place, tile.to(out[0].dtype.element_ty), mask=mask)


@triton.jit
def sums_over_heads(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    do: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    until: tl.tuple,
    score_args: tl.tuple,
    weight_args: tl.tuple,
    rows: tl.tuple,
    cols: tl.tuple,
    of_rows: tl.tuple,
    of_cols: tl.tuple,
    T: tl.tensor,
    S: tl.tensor,
    scale: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    HEADS: tl.constexpr,
    SCORES: tl.constexpr,
    SCORE_OPTIONS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WEIGHT_OPTIONS: tl.constexpr,
    WEIGHT_ADJOINTS: tl.constexpr,
    GRADIENT: tl.constexpr,
    RANK: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DP: tl.constexpr,
    VP: tl.constexpr,
    PRECISION: tl.constexpr,
    CODE: tl.constexpr,
) -> None:
    """Stores the maps Q_r in ``of_rows`` and K_r in ``of_cols``, (B, r, T, S): of the weights P or,
    with GRADIENT, of scale P (dP - delta), the gradient of the composed scores times the scale.
    ``rows``, ``cols``: the factors that leave the head. The grid is (key tiles, row tiles, B).
    """
    offset = S - T
    at_key, at_row = tl.program_id(0) * BN, tl.program_id(1) * BM
    i, j = (at_row + tl.arange(0, BM))[:, None], (at_key + tl.arange(0, BN))[None, :]
    b = tl.program_id(2).to(tl.int64)
    q0, q1 = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, BN), tl.float32)
    k0, k1 = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, BN), tl.float32)
    at = (b, 0, i, j, until, T, S, offset, 0, at_row, at_key)
    last = latest(until, b, j, S) - offset
    if (at_key <= at_row + BM - 1 + offset) & (at_row < last):
        for head in range(HEADS[0]):
            h = tl.full((1, 1), 0, tl.int32) + head
            kh, vh = key_head(h, HEADS), h // (HEADS[3] // HEADS[2])
            here = (b, h, i, j, until, T, S, offset, 0, at_row, at_key)
            log = load_row(lse, b, h, i, HEADS[0], T)
            qt = held(q, b, h, at_row, HEADS[0], T, D, BM, DP, DP)
            s = product(qt, q, h, at_row, k, kh, at_key, b, HEADS[0], HEADS[1], T, S, D, 0, BM, BN,
                        DP, DP, PRECISION, False) * scale  # fmt: skip
            _, p = recomputed(s, log, here, score_args, SCORES, SCORE_OPTIONS)
            if GRADIENT:
                gt = held(do, b, h, at_row, HEADS[0], T, DV, BM, VP, VP)
                g = product(gt, do, h, at_row, v, vh, at_key, b, HEADS[0], HEADS[2], T, S, DV, 0,
                            BM, BN, VP, VP, PRECISION, False)  # fmt: skip
                tiles = trace(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, here)
                g = pulled(WEIGHT_ADJOINTS, WEIGHT_OPTIONS, weight_args, weight_args, tiles, g,
                           here, "")  # fmt: skip
                p *= (g - load_row(delta, b, h, i, HEADS[0], T)) * scale
            if of_rows is not None:
                q0 += row_factor(rows, here, 0) * p
                if RANK > 1:
                    q1 += row_factor(rows, here, 1) * p
            if of_cols is not None:
                k0 += col_factor(cols, here, 0) * p
                if RANK > 1:
                    k1 += col_factor(cols, here, 1) * p
    if of_rows is not None:
        store_map(of_rows, at, 0, q0)
        if RANK > 1:
            store_map(of_rows, at, 1, q1)
    if of_cols is not None:
        store_map(of_cols, at, 0, k0)
        if RANK > 1:
            store_map(of_cols, at, 1, k1)
