"""Weights edits on a tile [H, rows, keys]: pairs subtracted, Shaped attention.

They are met here where another edit of the chain mixes heads. Alone they need no map: the online
softmax gives each map's output, and the edit's closed form acts on that (``operator.run``).
"""

import triton
import triton.language as tl

from softmap.ops.triton.chains import along, heads_of, per_head
from softmap.ops.triton.tiles import visible


@triton.jit
def split_pairs(m: tl.tensor) -> tl.tensor:
    """Returns the even and the odd maps, [H, rows, keys] each, of [2H, rows, keys]."""
    pairs = tl.reshape(m, (m.shape[0] // 2, 2, m.shape[1], m.shape[2]))
    return tl.split(tl.permute(pairs, (0, 2, 3, 1)))


@triton.jit
def join_pairs(even: tl.tensor, odd: tl.tensor) -> tl.tensor:
    """Returns the tile whose heads 2h and 2h + 1 are those of the two given: undoes
    ``split_pairs``.
    """
    pairs = tl.permute(tl.join(even, odd), (0, 3, 1, 2))
    return tl.reshape(pairs, (even.shape[0] * 2, even.shape[1], even.shape[2]))


@triton.jit
def share(t: tl.tuple, at: tl.tuple, h: tl.tensor, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns lambda in a shape that broadcasts to the pairs: one number, or one for each token and
    pair.
    """
    if OPTIONS // 256 % 256:
        place = t[0] + at[0] * t[1] + at[2] * t[2] + h
        return tl.load(place, mask=(at[2] < at[5]) & (h < OPTIONS % 256 // 2), other=0.0).to(
            tl.float32
        )
    else:
        return tl.load(t[0]).to(tl.float32)


@triton.jit
def subtract_pairs(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m'[h] = m[2h] - lambda m[2h+1]. t = (lambda,)."""
    even, odd = split_pairs(m)
    return even - share(t[0], at, heads_of(even, at), OPTIONS) * odd


@triton.jit
def subtract_pairs_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient of the weights; adds that of lambda to ``d``."""
    even, odd = split_pairs(m)
    h = heads_of(even, at)
    if SIDE == "rows" and d[0] is not None:
        if OPTIONS // 256 % 256:
            place = d[0][0] + at[0] * d[0][1] + at[2] * d[0][2] + h
            mask = (at[2] < at[5]) & (h < OPTIONS % 256 // 2)
            tl.atomic_add(place, -along(g * odd), mask=mask, sem="relaxed")
        else:
            tl.atomic_add(d[0][0] + at[8] * d[0][1], -tl.sum(g * odd), sem="relaxed")
    return join_pairs(g, -share(t[0], at, h, OPTIONS) * g)


@triton.jit
def of_head(t: tl.tuple, h: tl.tensor, heads: tl.tensor) -> tl.tensor:
    """Returns a tensor (H,) in a shape that broadcasts to the tile."""
    return tl.load(t[0] + h, mask=h < heads, other=0.0).to(tl.float32)


@triton.jit
def add_of_head(
    d: tl.tuple, at: tl.tuple, h: tl.tensor, heads: tl.tensor, value: tl.tensor
) -> None:
    """Adds the gradient of a tensor (H,) to this program's own part of ``d``."""
    tl.atomic_add(d[0] + at[8] * d[1] + h, value, mask=h < heads, sem="relaxed")


@triton.jit
def diagonal(at: tl.tuple) -> tl.tensor:
    """Returns 1 where the key is the row's own token and visible, else 0, [rows, keys]."""
    own = at[3] == at[2] + at[7]
    return (own & visible(at)).to(tl.float32)


@triton.jit
def uniform(at: tl.tuple, count: tl.tuple) -> tl.tensor:
    """Returns the map [rows, keys] that gives equal weight to all keys that a row sees."""
    n = tl.load(count[0] + at[0] * count[1] + at[2], mask=at[2] < at[5], other=1.0)
    return visible(at).to(tl.float32) / n


@triton.jit
def shaped(m: tl.tensor, at: tl.tuple, t: tl.tuple, OPTIONS: tl.constexpr) -> tl.tensor:
    """Returns m' = beta m + alpha I - gamma C. t = (alpha, beta, gamma or None, count)."""
    h = heads_of(m, at)
    out = of_head(t[1], h, OPTIONS % 256) * m + of_head(t[0], h, OPTIONS % 256) * diagonal(at)
    if t[2] is not None:
        out -= of_head(t[2], h, OPTIONS % 256) * uniform(at, t[3])
    return out


@triton.jit
def shaped_adjoint(
    m: tl.tensor,
    g: tl.tensor,
    at: tl.tuple,
    t: tl.tuple,
    d: tl.tuple,
    OPTIONS: tl.constexpr,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient of the weights; adds those of alpha, beta and gamma to ``d``."""
    h = heads_of(m, at)
    if SIDE == "rows":
        if d[0] is not None:
            add_of_head(d[0], at, h, OPTIONS % 256, per_head(g * diagonal(at)))
        if d[1] is not None:
            add_of_head(d[1], at, h, OPTIONS % 256, per_head(g * m))
        if d[2] is not None:
            add_of_head(d[2], at, h, OPTIONS % 256, -per_head(g * uniform(at, t[3])))
    return of_head(t[1], h, OPTIONS % 256) * g
