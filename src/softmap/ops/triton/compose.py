"""DCMHA's composition of heads and talking heads' static mix, on a tile [H, rows, keys].

    a'[., i, j] = (1 + M_i + N_j)^T a[., i, j],      M_i, N_j: matrices over heads
    da[., i, j] = (1 + M_i + N_j) da'[., i, j],   dM_i = sum_j a[., i, j] da'[., i, j]^T

With one matrix for each row (or key) a mix is a product on the matrix units, one for each row of
the tile. The tile's own float32 numbers pass untouched; what the matrices add is half precision
where the inputs are.

The kernel that walks a row's keys adds up dM_i, the kernel that walks a key's rows dN_j. No two
programs write to one place, so results are the same in every run.
"""

import triton
import triton.language as tl

from softmap.ops.triton.fragments import add_matrices, anchored, cells, matrices, tile_of


@triton.jit
def dot(x: tl.tensor, y: tl.tensor, s: tl.tensor, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns s + x y, in full float32 where OPTIONS ask for that, else in TF32."""
    return tl.dot(x, y, s, input_precision="ieee" if OPTIONS // 256 % 256 else "tf32")


@triton.jit
def by_key(m: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Returns cells [rows, keys, H] as [keys, rows, H]."""
    return anchored(tl.permute(m.to(dtype), (1, 0, 2)))


@triton.jit
def mixed(
    m: tl.tensor, at: tl.tuple, t: tl.tensor, OPTIONS: tl.constexpr, TURNED: tl.constexpr
) -> tl.tensor:
    """Returns cells m [rows, keys, H] after the matrices of rows and keys, if any, have mixed their
    heads.

    t = (M, M^T, N, N^T), bundles or None. TURNED: 1 for the second and fourth.
    """
    H: tl.constexpr = m.shape[2]
    out = m
    if t[TURNED] is not None:
        x = matrices(t[TURNED], at[0], at[9], at[5], H, m.shape[0])
        out = dot(m.to(x.dtype), x, out, OPTIONS)
    if t[2 + TURNED] is not None:
        y = matrices(t[2 + TURNED], at[0], at[10], at[6], H, m.shape[1])
        other = by_key(m, y.dtype)
        more = dot(other, y, tl.zeros(other.shape, tl.float32), OPTIONS)
        out = plus(out, anchored(tl.permute(more.to(y.dtype), (1, 0, 2))), OPTIONS)
    return out


@triton.jit
def plus(m: tl.tensor, more: tl.tensor, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m + more. Half precision is added to float32 by a product with the unit matrix, so
    that both stay where they are in registers.
    """
    if more.dtype == tl.float32:
        return m + more
    else:
        n = tl.arange(0, m.shape[2])
        same = (n[:, None] == n[None, :])[None].to(more.dtype)
        same = tl.broadcast_to(same, (m.shape[0], m.shape[2], m.shape[2]))
        return dot(more, same, m, OPTIONS)


@triton.jit
def compose(m: tl.tensor, at: tl.tuple, t: tl.tensor, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns the composed tile of all heads."""
    KEYS_FIRST: tl.constexpr = at[2].shape[1] != 1
    return tile_of(mixed(cells(m, KEYS_FIRST), at, t, OPTIONS, 0), KEYS_FIRST)


@triton.jit
def compose_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient of the tile; adds those of M and N to d = (sums of dM, sums of dN), each
    of which may be None.
    """
    KEYS_FIRST: tl.constexpr = at[2].shape[1] != 1
    m, g = cells(m, KEYS_FIRST), cells(g, KEYS_FIRST)
    if SIDE == "rows" and d[0] is not None:
        row_dtype: tl.constexpr = t[0][0].dtype.element_ty
        add_matrices(d[0], at[0], at[9], outer(m.to(row_dtype), g.to(row_dtype), OPTIONS))
    if SIDE == "keys" and d[1] is not None:
        key_dtype: tl.constexpr = t[2][0].dtype.element_ty
        both = outer(by_key(m, key_dtype), by_key(g, key_dtype), OPTIONS)
        add_matrices(d[1], at[0], at[10], both)
    return tile_of(mixed(g, at, t, OPTIONS, 1), KEYS_FIRST)


@triton.jit
def outer(m: tl.tensor, g: tl.tensor, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns the sums [A, H, H] over the second axis of m [A, W, H] and g [A, W, H]."""
    zero = tl.zeros((m.shape[0], m.shape[2], m.shape[2]), tl.float32)
    return dot(tl.permute(m, (0, 2, 1)), g, zero, OPTIONS)
