"""Vectors of tokens times factors of low rank, and what is made of the products: one pass each.

A program takes some tokens of one head: grid (token tiles, heads, B). GROUP heads of the rows'
vectors read one head of the keys'. Factors (b, T, r, H) are bundles (pointer, strides of b, t, r);
``z`` and ``out`` are tuples of bundles, one for each r. Everything is float32 inside.
"""

import triton
import triton.language as tl

from softmap.ops.triton.outputs import read, tokens, write


@triton.jit
def place(f: tl.tuple, h: tl.tensor, t: tl.tensor, r: tl.constexpr) -> tl.tensor:
    """Returns where the factor r of head h lies at the tokens, (BT, 1)."""
    return f[0] + tl.program_id(2).to(tl.int64) * f[1] + t * f[2] + r * f[3] + h


@triton.jit
def factor(f: tl.tuple, h: tl.tensor, t: tl.tensor, T: tl.tensor, r: tl.constexpr) -> tl.tensor:
    """Returns the factor r of head h at the tokens, (BT, 1)."""
    return tl.load(place(f, h, t, r), mask=t < T, other=0.0).to(tl.float32)


@triton.jit
def weigh(
    x: tl.tuple,
    f: tl.tuple,
    out: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    GROUP: tl.constexpr,
    SUM: tl.constexpr,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores out_r[h] = f_r[h] x[h // GROUP], or with SUM out_r[g] = sum_{h of g} f_r[h] x[h]."""
    t, c, mask = tokens(T, D, BT, DP)
    own = tl.program_id(1)
    for r in tl.static_range(len(out)):
        if SUM:
            total = tl.zeros((BT, DP), tl.float32)
            for m in range(GROUP):
                h = own * GROUP + m
                total += factor(f, h, t, T, r) * read(x, h, t, c, mask)
            write(out[r], own, t, c, mask, total)
        else:
            write(
                out[r], own, t, c, mask, factor(f, own, t, T, r) * read(x, own // GROUP, t, c, mask)
            )


@triton.jit
def gather(
    x: tl.tuple,
    f: tl.tuple,
    z: tl.tuple,
    one: tl.tuple,
    two: tl.tuple,
    out: tl.tuple,
    df: tl.tuple,
    T: tl.tensor,
    D: tl.tensor,
    GROUP: tl.constexpr,
    SUM: tl.constexpr,
    BT: tl.constexpr,
    DP: tl.constexpr,
) -> None:
    """Stores out[h] = one[h] + two[h] + sum_r f_r[h] z_r[h // GROUP] and df_r[h] = <x[h], z_r>.
    With SUM, a head of ``out`` and x adds up those of z that read it. What is None is left out.
    """
    t, c, mask = tokens(T, D, BT, DP)
    own = tl.program_id(1)
    total = tl.zeros((BT, DP), tl.float32)
    if one is not None:
        total += read(one, own, t, c, mask)
    if two is not None:
        total += read(two, own, t, c, mask)
    if f is not None:
        for m in range(GROUP if SUM else 1):
            h = own * GROUP + m if SUM else own
            for r in tl.static_range(len(z)):
                part = read(z[r], h if SUM else own // GROUP, t, c, mask)
                total += factor(f, h, t, T, r) * part
                if df is not None:
                    inner = tl.sum(part * read(x, own, t, c, mask), 1, keep_dims=True)
                    tl.store(place(df, h, t, r), inner, mask=t < T)
    if out is not None:
        write(out, own, t, c, mask, total)
