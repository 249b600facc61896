"""DCMHA's composition of heads and talking heads' static mix, on a tile [H, rows, keys].

    a' = a (1 + g_q + g_k) + sum_r (a . w1_q,r) w2_q,r + sum_r (a . w1_k,r) w2_k,r + a W
    da = da' (1 + g_q + g_k) + sum_r (da' . w2_r) w1_r + da' W^T

Gradients of a query's factors are sums over keys, and the other way round: the kernel that walks
a row's keys adds up the former, the kernel that walks a key's rows the latter. No two programs
write to one place, so results are the same in every run.
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import along, heads_of


@triton.jit
def factor(t, b, n, rank, h, tokens, heads):
    """w[b, n, rank, h] as a tile, in float32."""
    at = t[0] + b * t[1] + n * t[2] + rank * t[3] + h
    return tl.load(at, mask=(n < tokens) & (h < heads), other=0.0).to(tl.float32)


@triton.jit
def gate(t, b, n, h, tokens, heads):
    """g[b, n, h] as a tile, in float32."""
    at = t[0] + b * t[1] + n * t[2] + h
    return tl.load(at, mask=(n < tokens) & (h < heads), other=0.0).to(tl.float32)


@triton.jit
def add_factor(t, b, n, rank, h, tokens, heads, value):
    at = t[0] + b * t[1] + n * t[2] + rank * t[3] + h
    tl.atomic_add(at, value, mask=(n < tokens) & (h < heads), sem="relaxed")


@triton.jit
def add_gate(t, b, n, h, tokens, heads, value):
    at = t[0] + b * t[1] + n * t[2] + h
    tl.atomic_add(at, value, mask=(n < tokens) & (h < heads), sem="relaxed")


@triton.jit
def square(t, HT: tl.constexpr, heads):
    """W [in, out], padded with zeros."""
    h = tl.arange(0, HT)
    mask = (h[:, None] < heads) & (h[None, :] < heads)
    return tl.load(t[0] + h[:, None] * t[1] + h[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def over_heads(w, m, EXACT: tl.constexpr):
    """sum_h w[., h] m[h] as one matrix product over all cells of the tile."""
    flat = tl.reshape(m, (m.shape[0], m.shape[1] * m.shape[2]))
    return tl.reshape(tl.dot(w, flat, input_precision="ieee" if EXACT else "tf32"), m.shape)


@triton.jit
def add_square(t, m, g, part, heads, EXACT: tl.constexpr):
    """dW[h, g] = sum of m[h] g[g] over the cells, into this program's own part."""
    cells: tl.constexpr = m.shape[1] * m.shape[2]
    a = tl.reshape(m, (m.shape[0], cells))
    b = tl.reshape(g, (g.shape[0], cells))
    w = tl.dot(a, tl.trans(b), input_precision="ieee" if EXACT else "tf32")
    h = tl.arange(0, m.shape[0])
    mask = (h[:, None] < heads) & (h[None, :] < heads)
    at = t[0] + part * t[1] + h[:, None] * t[2] + h[None, :]
    tl.atomic_add(at, w, mask=mask, sem="relaxed")


@triton.jit
def mix(m, at, t, OPTIONS: tl.constexpr):
    """m'_g = sum_h W[h, g] m_h. t = (W,)."""
    w = square(t[0], m.shape[0], OPTIONS % 256)
    return over_heads(tl.trans(w), m, OPTIONS // 256 % 256)


@triton.jit
def mix_adjoint(m, g, at, t, d, OPTIONS: tl.constexpr, SIDE: tl.constexpr):
    if SIDE == "rows" and d[0] is not None:
        add_square(d[0], m, g, at[8], OPTIONS % 256, OPTIONS // 256 % 256)
    return over_heads(square(t[0], m.shape[0], OPTIONS % 256), g, OPTIONS // 256 % 256)


@triton.jit
def gain(b, h, i, j, T, S, t, H):
    total = 1.0
    if t[2] is not None:
        total += gate(t[2], b, i, h, T, H)
    if t[5] is not None:
        total += gate(t[5], b, j, h, S, H)
    return total


@triton.jit
def compose(m, at, t, OPTIONS: tl.constexpr):
    """t = (q1, q2, qg, k1, k2, kg, W), bundles or None. OPTIONS: ``edits.options``."""
    b, i, j, T, S = at[0], at[2], at[3], at[5], at[6]
    H: tl.constexpr = OPTIONS % 256
    h = heads_of(m, at)
    out = m * gain(b, h, i, j, T, S, t, H)
    if t[6] is not None:
        out += mix(m, at, (t[6],), OPTIONS)
    for r in tl.static_range(OPTIONS // 65536):
        if t[0] is not None:
            down = tl.sum(m * factor(t[0], b, i, r, h, T, H), 0)
            out += down * factor(t[1], b, i, r, h, T, H)
        if t[3] is not None:
            down = tl.sum(m * factor(t[3], b, j, r, h, S, H), 0)
            out += down * factor(t[4], b, j, r, h, S, H)
    return out


@triton.jit
def compose_adjoint(m, g, at, t, d, OPTIONS: tl.constexpr, SIDE: tl.constexpr):
    """d: where the gradients go, a bundle for each of t, or None."""
    b, i, j, T, S = at[0], at[2], at[3], at[5], at[6]
    H: tl.constexpr = OPTIONS % 256
    h = heads_of(m, at)
    dm = g * gain(b, h, i, j, T, S, t, H)
    if t[6] is not None:
        dm += mix_adjoint(m, g, at, (t[6],), (d[6],), OPTIONS, SIDE)
    if SIDE == "rows" and d[2] is not None:
        add_gate(d[2], b, i, h, T, H, along(m * g))
    if SIDE == "keys" and d[5] is not None:
        add_gate(d[5], b, j, h, S, H, along(m * g))
    for r in tl.static_range(OPTIONS // 65536):
        if t[0] is not None:
            w1 = factor(t[0], b, i, r, h, T, H)
            up = tl.sum(g * factor(t[1], b, i, r, h, T, H), 0)
            dm += up * w1
            if SIDE == "rows":
                down = tl.sum(m * w1, 0)
                if d[0] is not None:
                    add_factor(d[0], b, i, r, h, T, H, along(m * up))
                if d[1] is not None:
                    add_factor(d[1], b, i, r, h, T, H, along(g * down))
        if t[3] is not None:
            w1 = factor(t[3], b, j, r, h, S, H)
            up = tl.sum(g * factor(t[4], b, j, r, h, S, H), 0)
            dm += up * w1
            if SIDE == "keys":
                down = tl.sum(m * w1, 0)
                if d[3] is not None:
                    add_factor(d[3], b, j, r, h, S, H, along(m * up))
                if d[4] is not None:
                    add_factor(d[4], b, j, r, h, S, H, along(g * down))
    return dm
