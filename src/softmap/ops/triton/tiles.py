"""Tile functions that every kernel is made of: loads, the mask, scores, chains of edits.

A tile of the map is [H, rows, keys] where edits mix heads and [rows, keys], one head a program,
where they do not; ``backward.keys`` has the last two axes exchanged. All index tensors broadcast:
h is [H, 1, 1] or [1, 1], i is [rows, 1], j is [1, keys] (or [1, rows] and [keys, 1]). So one
tile function serves all.

``at`` is where a tile lies: (b, h, i, j, until, T, S, offset, part, row, key). offset: place of
query 0 among the keys; until: a bundle, or None where causality alone hides keys; part: number of
the program among those that add up the gradients of tensors that all tokens share; row, key: the
tile's first ones.
"""

import torch
import triton
import triton.language as tl

from softmap.ops.triton.common import interpreting

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
APPROXIMATE: tl.constexpr = tl.constexpr(not interpreting() and torch.version.hip is None)


@triton.jit
def log2(x: tl.tensor) -> tl.tensor:
    """Returns the logarithm, base 2, of a float32 tile.

    On NVIDIA's GPUs by their own instruction, with an absolute error of at most 2^-22 near 1, where
    the library's logarithm takes dozens of instructions.
    """
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(x)


@triton.jit
def load(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    i: tl.tensor,
    c: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """Returns x[b, h, i, c] as a tile, zero outside; x = (pointer, strides of b, h, i)."""
    at = x[0] + b * x[1] + h * x[2] + i * x[3] + c
    return tl.load(at, mask=(h < heads) & (i < tokens) & (c < width), other=0.0)


@triton.jit
def store(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    i: tl.tensor,
    c: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    width: tl.tensor,
    tile: tl.tensor,
) -> None:
    """Stores a tile where ``load`` would read it, in the dtype of x."""
    at = x[0] + b * x[1] + h * x[2] + i * x[3] + c
    mask = (h < heads) & (i < tokens) & (c < width)
    tl.store(at, tile.to(x[0].dtype.element_ty), mask=mask)


@triton.jit
def visible(at: tl.tuple) -> tl.tensor:
    """Returns whether the row at place p = i + offset sees key j: j <= p < until[j]."""
    place = at[2] + at[7]
    return (at[3] <= place) & (place < end_of(at))


@triton.jit
def end_of(at: tl.tuple) -> tl.tensor:
    """Returns until[j], or S for every key where only causality hides any (until is None)."""
    if at[4] is None:
        return at[6]
    else:
        return tl.load(at[4][0] + at[0] * at[4][1] + at[3], mask=at[3] < at[6], other=0)


@triton.jit
def hide(m: tl.tensor, at: tl.tuple, fill: tl.tensor) -> tl.tensor:
    """Returns m with ``fill`` where it is not visible; tiles that are visible throughout cost no
    comparison.
    """
    first, last = at[9] + at[7], at[9] + at[2].shape[0] * at[2].shape[1] - 1 + at[7]
    newest = at[10] + at[3].shape[0] * at[3].shape[1] - 1
    end = end_of(at)
    if (newest > first) | (last >= (end if at[4] is None else tl.min(end))):
        m = tl.where((at[3] <= at[2] + at[7]) & (at[2] + at[7] < end), m, fill)
    return m


@triton.jit
def earliest(first: tl.tuple, b: tl.tensor, i: tl.tensor, T: tl.tensor, S: tl.tensor) -> tl.tensor:
    """Returns the first key that any of the rows sees."""
    if first is None:
        return 0
    else:
        return tl.min(tl.load(first[0] + b * first[1] + i, mask=i < T, other=S))


@triton.jit
def latest(until: tl.tuple, b: tl.tensor, j: tl.tensor, S: tl.tensor) -> tl.tensor:
    """Returns the place after the last row that sees any of the keys."""
    if until is None:
        return S
    else:
        return tl.max(tl.load(until[0] + b * until[1] + j, mask=j < S, other=0))


@triton.jit
def key_head(h: tl.tensor, HEADS: tl.constexpr) -> tl.tensor:
    """Returns the key head that map h reads, as ``ops.heads.Heads.key_of_map`` does."""
    maps: tl.constexpr = HEADS[0] // HEADS[3]
    halves: tl.constexpr = HEADS[1] // HEADS[2]
    group: tl.constexpr = HEADS[3] // HEADS[2]
    return h // (maps * group) * halves + (h % maps) % halves


@triton.jit
def load_row(
    x: tl.tuple, b: tl.tensor, h: tl.tensor, i: tl.tensor, heads: tl.tensor, tokens: tl.tensor
) -> tl.tensor:
    """Returns a number per head and row, [.., rows, 1]; x = (pointer, strides of b, h), rows
    adjacent.
    """
    place = x[0] + b * x[1] + h * x[2] + i
    return tl.load(place, mask=(h < heads) & (i < tokens), other=0.0)


@triton.jit
def store_row(
    x: tl.tuple,
    b: tl.tensor,
    h: tl.tensor,
    i: tl.tensor,
    heads: tl.tensor,
    tokens: tl.tensor,
    value: tl.tensor,
) -> None:
    """Stores one number for each head h and row i."""
    place = x[0] + b * x[1] + h * x[2] + i
    tl.store(place, value, mask=(h < heads) & (i < tokens))


@triton.jit
def head_tile(HT: tl.constexpr, number: tl.tensor) -> tl.tensor:
    """Returns the numbers of all heads, [H, 1, 1], or of this program's, [1, 1] (HT = 0)."""
    if HT == 0:
        return tl.full((1, 1), 0, tl.int32) + number
    else:
        return tl.arange(0, HT)[:, None, None]
