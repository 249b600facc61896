"""The backward kernels. Both compute each tile of the map again from q, k, v and the statistics.

    dP' = dO v^T                     dP  = adjoint of the weights edits
    dS' = P (dP - delta)             delta[h, i] = sum_j P dP
    dS  = adjoint of the scores edits; dq = dS k, dk = dS^T q, dv = P'^T dO

``rows`` walks the keys of a row tile: dq, and the gradients of tensors of queries and of the layer.
``keys`` walks the rows of a key tile: dk, dv, and the gradients of tensors of keys. So every number
is written by one program, and two runs give the same bits; adding dk and dv up atomically in one
kernel would spare two products of seven, and that property. Where the weights are edited, delta is
not dO . o of each head, and needs a pass of its own.
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import along, pulled, trace
from softmap.ops.triton.products import accumulate, finish, held, product, start, zeros
from softmap.ops.triton.tiles import (
    LOG2E,
    earliest,
    head_tile,
    hide,
    key_head,
    latest,
    load,
    load_row,
    store_row,
)


@triton.jit
def recomputed(
    s: tl.tensor,
    log: tl.tensor,
    at: tl.tuple,
    args: tl.tuple,
    SCORES: tl.constexpr,
    OPTIONS: tl.constexpr,
) -> tuple:
    """Returns the tiles of the scores edits, and the weights P."""
    tiles = trace(SCORES, OPTIONS, args, s, at)
    p = tl.exp2(tiles[len(SCORES)] * LOG2E - log)
    return tiles, hide(p, at, 0.0)


@triton.jit
def rows(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    o: tl.tuple,
    do: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    dq: tl.tuple,
    until: tl.tuple,
    first: tl.tuple,
    score_args: tl.tuple,
    weight_args: tl.tuple,
    score_grads: tl.tuple,
    weight_grads: tl.tuple,
    T: tl.tensor,
    S: tl.tensor,
    scale: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    HEADS: tl.constexpr,
    OUT: tl.constexpr,
    SCORES: tl.constexpr,
    SCORE_OPTIONS: tl.constexpr,
    SCORE_ADJOINTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WEIGHT_OPTIONS: tl.constexpr,
    WEIGHT_ADJOINTS: tl.constexpr,
    HT: tl.constexpr,
    HTO: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DP: tl.constexpr,
    DC: tl.constexpr,
    VP: tl.constexpr,
    VC: tl.constexpr,
    PRECISION: tl.constexpr,
    CODE: tl.constexpr,
) -> None:
    """Stores delta, dq and the gradients of tensors of queries and of the layer. The grid is (row
    tiles, B or B * heads).
    """
    H: tl.constexpr = HEADS[0]
    offset = S - T
    at_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    i = (at_row + tl.arange(0, BM))[:, None]
    b = (tl.program_id(1) // (H if HT == 0 else 1)).to(tl.int64)
    one = tl.program_id(1) % H
    part = tl.program_id(0) + tl.num_programs(0) * tl.program_id(1)
    h, out = head_tile(HT, one), head_tile(HTO, one)
    kh, vh = key_head(h, HEADS), out // (OUT // HEADS[2])
    begin = earliest(first, b, i, T, S) // BN * BN
    end = tl.minimum(tl.max(i) + offset + 1, S)
    qt = held(q, b, h, at_row, H, T, D, BM, DP, DC)
    gt = held(do, b, out, at_row, OUT, T, DV, BM, VP, VC)
    log = load_row(lse, b, h, i, H, T)
    if HT == 0 and len(WEIGHTS) == 0:
        ot = load(o, b, out, i, tl.arange(0, VP)[None, :], OUT, T, DV)
        less = tl.sum(ot.to(tl.float32) * gt.to(tl.float32), 1, keep_dims=True)
    else:
        less = zeros(HT, BM, BN)
        for at_key in range(begin, end, BN):
            j = at_key + tl.arange(0, BN)
            at = (b, h, i, j[None, :], until, T, S, offset, part, at_row, at_key)
            s = product(qt, q, h, at_row, k, kh, at_key, b, H, HEADS[1], T, S, D, HT, BM, BN, DP,
                        DC, PRECISION, False) * scale  # fmt: skip
            _, p = recomputed(s, log, at, score_args, SCORES, SCORE_OPTIONS)
            tiles = trace(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, at)
            g = product(gt, do, out, at_row, v, vh, at_key, b, OUT, HEADS[2], T, S, DV, HTO, BM,
                        BN, VP, VC, PRECISION, False)  # fmt: skip
            g = pulled(WEIGHT_ADJOINTS, WEIGHT_OPTIONS, weight_args, weight_grads, tiles,
                       g, at, "")  # fmt: skip
            less += p * g
        less = along(less)
    store_row(delta, b, h, i, H, T, less)

    acc = start(HT, BM, DP, DC)
    for at_key in range(begin, end, BN):
        j = at_key + tl.arange(0, BN)
        at = (b, h, i, j[None, :], until, T, S, offset, part, at_row, at_key)
        s = product(qt, q, h, at_row, k, kh, at_key, b, H, HEADS[1], T, S, D, HT, BM, BN, DP, DC,
                    PRECISION, False) * scale  # fmt: skip
        steps, p = recomputed(s, log, at, score_args, SCORES, SCORE_OPTIONS)
        tiles = trace(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, at)
        g = product(gt, do, out, at_row, v, vh, at_key, b, OUT, HEADS[2], T, S, DV, HTO, BM, BN,
                    VP, VC, PRECISION, False)  # fmt: skip
        g = pulled(WEIGHT_ADJOINTS, WEIGHT_OPTIONS, weight_args, weight_grads, tiles,
                   g, at, "rows")  # fmt: skip
        g = pulled(SCORE_ADJOINTS, SCORE_OPTIONS, score_args, score_grads, steps, p * (g - less),
                   at, "rows")  # fmt: skip
        g = g if DP == DC else g * scale
        acc = accumulate(acc, dq, h, at_row, g, k, kh, at_key, b, H, HEADS[1], T, S, D, DP, DC,
                         PRECISION)  # fmt: skip
    finish(acc * scale, dq, h, at_row, b, H, T, D, BM, DP, DC)


@triton.jit
def keys(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    do: tl.tuple,
    lse: tl.tuple,
    delta: tl.tuple,
    dk: tl.tuple,
    dv: tl.tuple,
    until: tl.tuple,
    score_args: tl.tuple,
    weight_args: tl.tuple,
    score_grads: tl.tuple,
    weight_grads: tl.tuple,
    T: tl.tensor,
    S: tl.tensor,
    scale: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    HEADS: tl.constexpr,
    OUT: tl.constexpr,
    SCORES: tl.constexpr,
    SCORE_OPTIONS: tl.constexpr,
    SCORE_ADJOINTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WEIGHT_OPTIONS: tl.constexpr,
    WEIGHT_ADJOINTS: tl.constexpr,
    HT: tl.constexpr,
    HTO: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DP: tl.constexpr,
    DC: tl.constexpr,
    VP: tl.constexpr,
    VC: tl.constexpr,
    PRECISION: tl.constexpr,
    CODE: tl.constexpr,
) -> None:
    """Stores dk of each map, dv of each output, and the gradients of tensors of keys. The grid is
    (key tiles, B or B * heads).
    """
    H: tl.constexpr = HEADS[0]
    offset = S - T
    at_key = tl.program_id(0) * BN
    j = at_key + tl.arange(0, BN)
    b = (tl.program_id(1) // (H if HT == 0 else 1)).to(tl.int64)
    one = tl.program_id(1) % H
    h, out = head_tile(HT, one), head_tile(HTO, one)
    kh, vh = key_head(h, HEADS), out // (OUT // HEADS[2])
    begin = tl.maximum(tl.program_id(0) * BN - offset, 0) // BM * BM
    end = tl.minimum(latest(until, b, j, S) - offset, T)
    # The keys are held: tiles of the map and all index tensors are [keys, rows] here.
    jt = j[:, None]
    kt = held(k, b, kh, at_key, HEADS[1], S, D, BN, DP, DC)
    vt = held(v, b, vh, at_key, HEADS[2], S, DV, BN, VP, VC)
    k_acc = start(HT, BN, DP, DC)
    v_acc = start(HTO, BN, VP, VC)
    for at_row in range(begin, end, BM):
        n = at_row + tl.arange(0, BM)
        i = n[None, :]
        at = (b, h, i, jt, until, T, S, offset, one, at_row, at_key)
        log = load_row(lse, b, h, i, H, T)
        less = load_row(delta, b, h, i, H, T)
        s = product(kt, k, kh, at_key, q, h, at_row, b, HEADS[1], H, S, T, D, HT, BN, BM, DP, DC,
                    PRECISION, True) * scale  # fmt: skip
        steps, p = recomputed(s, log, at, score_args, SCORES, SCORE_OPTIONS)
        tiles = trace(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, at)
        w = tiles[len(WEIGHTS)]
        v_acc = accumulate(v_acc, dv, out, at_key, w, do, out, at_row, b, OUT, OUT, S, T, DV, VP,
                           VC, PRECISION)  # fmt: skip
        g = product(vt, v, vh, at_key, do, out, at_row, b, HEADS[2], OUT, S, T, DV, HTO, BN, BM,
                    VP, VC, PRECISION, True)  # fmt: skip
        g = pulled(WEIGHT_ADJOINTS, WEIGHT_OPTIONS, weight_args, weight_grads, tiles,
                   g, at, "keys")  # fmt: skip
        g = pulled(SCORE_ADJOINTS, SCORE_OPTIONS, score_args, score_grads, steps, p * (g - less),
                   at, "keys")  # fmt: skip
        g = g if DP == DC else g * scale
        k_acc = accumulate(k_acc, dk, h, at_key, g, q, h, at_row, b, H, H, S, T, D, DP, DC,
                           PRECISION)  # fmt: skip
    finish(k_acc * scale, dk, h, at_key, b, H, S, D, BN, DP, DC)
    finish(v_acc, dv, out, at_key, b, OUT, S, DV, BN, VP, VC)
