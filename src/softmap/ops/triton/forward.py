"""The forward kernel: a tile of query rows, all heads at once or one head a program.

One head (HT = 0): the online softmax, one pass over the keys; an edit of the weights must be linear
in them. All heads: an edit of the weights needs them normalised, so a first pass finds each row's
log-sum-exp, a second one computes the scores again, edits, and multiplies. PHASE: "all"; or, where
the keys are split among programs, "stats" and then "edit".
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import edited
from softmap.ops.triton.products import accumulate, finish, held, product, start, zeros
from softmap.ops.triton.tiles import LOG2E, earliest, head_tile, hide, key_head, load_row, store_row

# Finite, so that a row without a visible key so far subtracts no infinities.
LOWEST: tl.constexpr = tl.constexpr(-3.0e38)


@triton.jit
def online(top: tl.tensor, total: tl.tensor, s: tl.tensor) -> tuple:
    """Returns each cell's largest score and its sum over the tiles so far, without sums across
    lanes.
    """
    more = s - top
    less = tl.exp2(-tl.abs(more))
    total = total * tl.where(more > 0, less, 1.0) + tl.where(more > 0, 1.0, less)
    return tl.maximum(top, s), total


@triton.jit
def of_rows(top: tl.tensor, total: tl.tensor) -> tuple:
    """Returns, for each row, what ``online`` kept for each of its cells."""
    above = tl.max(top, 2, keep_dims=True)
    return above, tl.sum(total * tl.exp2(top - above), 2, keep_dims=True)


@triton.jit
def forward(
    q: tl.tuple,
    k: tl.tuple,
    v: tl.tuple,
    o: tl.tuple,
    lse: tl.tuple,
    until: tl.tuple,
    first: tl.tuple,
    score_args: tl.tuple,
    weight_args: tl.tuple,
    T: tl.tensor,
    S: tl.tensor,
    scale: tl.tensor,
    share: tl.tensor,
    D: tl.constexpr,
    DV: tl.constexpr,
    HEADS: tl.constexpr,
    OUT: tl.constexpr,
    SCORES: tl.constexpr,
    SCORE_OPTIONS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    WEIGHT_OPTIONS: tl.constexpr,
    HT: tl.constexpr,
    HTO: tl.constexpr,
    PHASE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    DP: tl.constexpr,
    DC: tl.constexpr,
    VP: tl.constexpr,
    VC: tl.constexpr,
    PRECISION: tl.constexpr,
    CODE: tl.constexpr,
) -> None:
    """Stores o and lse of a row tile. The grid is (row tiles, B or B * heads, splits of ``share``
    keys).
    """
    H: tl.constexpr = HEADS[0]
    offset = S - T
    # The last rows see most keys, so they are computed first.
    at_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    i = (at_row + tl.arange(0, BM))[:, None]
    b = (tl.program_id(1) // (H if HT == 0 else 1)).to(tl.int64)
    one = tl.program_id(1) % H
    h, out = head_tile(HT, one), head_tile(HTO, one)
    kh, vh = key_head(h, HEADS), out // (OUT // HEADS[2])
    split = tl.program_id(2)
    o = (o[0] + split * o[4], o[1], o[2], o[3])
    begin = tl.maximum(earliest(first, b, i, T, S) // BN * BN, split * share)
    end = tl.minimum(tl.minimum(tl.max(i) + offset + 1, S), (split + 1) * share)
    qt = held(q, b, h, at_row, H, T, D, BM, DP, DC)
    top = zeros(HT, BM, 1 if HT == 0 else BN) + LOWEST
    total = zeros(HT, BM, 1 if HT == 0 else BN)
    acc = start(HTO, BM, VP, VC)

    if HT == 0 or PHASE != "edit":
        for at_key in range(begin, end, BN):
            j = at_key + tl.arange(0, BN)
            s = product(qt, q, h, at_row, k, kh, at_key, b, H, HEADS[1], T, S, D, HT, BM, BN, DP,
                        DC, PRECISION, False)  # fmt: skip
            at = (b, h, i, j[None, :], until, T, S, offset, split, at_row, at_key)
            if len(SCORES) == 0:
                s *= scale * LOG2E
            else:
                s = edited(SCORES, SCORE_OPTIONS, score_args, s * scale, at) * LOG2E
            s = hide(s, at, -float("inf"))
            if HT != 0:
                top, total = online(top, total, s)
            else:
                above = tl.maximum(top, tl.max(s, 1, keep_dims=True))
                p, shrink = tl.exp2(s - above), tl.exp2(top - above)
                total = total * shrink + tl.sum(p, 1, keep_dims=True)
                top = above
                p = edited(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, at)
                acc = accumulate(acc * shrink, o, out, at_row, p, v, vh, at_key, b, OUT, HEADS[2],
                                 T, S, DV, VP, VC, PRECISION)  # fmt: skip
        if HT != 0:
            top, total = of_rows(top, total)
        empty = total == 0.0
        log = tl.where(empty, -float("inf"), top + tl.log2(tl.where(empty, 1.0, total)))
        store_row((lse[0] + split * lse[3], lse[1], lse[2]), b, h, i, H, T, log)
        if HT == 0:
            acc = acc / tl.where(empty, 1.0, total)
    else:
        log = load_row(lse, b, h, i, H, T)

    if HT != 0 and PHASE != "stats":
        for at_key in range(begin, end, BN):
            j = at_key + tl.arange(0, BN)
            at = (b, h, i, j[None, :], until, T, S, offset, split, at_row, at_key)
            s = product(qt, q, h, at_row, k, kh, at_key, b, H, HEADS[1], T, S, D, HT, BM, BN, DP,
                        DC, PRECISION, False) * scale  # fmt: skip
            s = edited(SCORES, SCORE_OPTIONS, score_args, s, at)
            p = hide(tl.exp2(s * LOG2E - log), at, 0.0)
            p = edited(WEIGHTS, WEIGHT_OPTIONS, weight_args, p, at)
            acc = accumulate(acc, o, out, at_row, p, v, vh, at_key, b, OUT, HEADS[2], T, S, DV,
                             VP, VC, PRECISION)  # fmt: skip
    if HT == 0 or PHASE != "stats":
        finish(acc, o, out, at_row, b, OUT, T, DV, BM, VP, VC)
