"""Chains of edits on a tile, forward and through the adjoints, and sums that adjoints need."""

import triton
import triton.language as tl


@triton.jit
def heads_of(m: tl.tensor, at: tl.tuple) -> tl.tensor:
    """Returns the head numbers of the tile ``m``, in a shape that broadcasts to it."""
    if len(m.shape) == 3:
        return tl.arange(0, m.shape[0])[:, None, None]
    else:
        return at[1]


@triton.jit
def per_head(m: tl.tensor) -> tl.tensor:
    """Returns the sum of each head's cells."""
    if len(m.shape) == 3:
        return tl.sum(tl.sum(m, 2, keep_dims=True), 1, keep_dims=True)
    else:
        return tl.sum(tl.sum(m, 1, keep_dims=True), 0, keep_dims=True)


@triton.jit
def along(m: tl.tensor) -> tl.tensor:
    """Returns the sum over the axis that the kernel walks: a row's keys, or a key's rows."""
    return tl.sum(m, len(m.shape) - 1, keep_dims=True)


@triton.jit
def trace(
    EDITS: tl.constexpr, OPTIONS: tl.constexpr, args: tl.tuple, m: tl.tensor, at: tl.tuple
) -> tl.tensor:
    """Returns the tile before, between and after the edits of a chain."""
    tiles = (m,)
    for n in tl.static_range(len(EDITS)):
        m = EDITS[n](m, at, args[n], OPTIONS[n])
        tiles = tiles + (m,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def edited(
    EDITS: tl.constexpr, OPTIONS: tl.constexpr, args: tl.tuple, m: tl.tensor, at: tl.tuple
) -> tl.tensor:
    """Returns the tile after the chain."""
    return trace(EDITS, OPTIONS, args, m, at)[len(EDITS)]


@triton.jit
def pulled(
    ADJOINTS: tl.constexpr,
    OPTIONS: tl.constexpr,
    args: tl.tuple,
    grads: tl.tuple,
    tiles: tl.tuple,
    g: tl.tensor,
    at: tl.tuple,
    SIDE: tl.constexpr,
) -> tl.tensor:
    """Returns the gradient of the chain's input from that of its output, by the adjoints.

    Args:
        SIDE: whose gradients are added up on the way: "rows" (tensors of queries and of the layer),
            "keys", or "" (none).
    """
    for n in tl.static_range(len(ADJOINTS)):
        # The last edit first; a constant cannot be named anew in each turn.
        g = ADJOINTS[len(ADJOINTS) - 1 - n](
            tiles[len(ADJOINTS) - 1 - n],
            g,
            at,
            args[len(ADJOINTS) - 1 - n],
            grads[len(ADJOINTS) - 1 - n],
            OPTIONS[len(ADJOINTS) - 1 - n],
            SIDE,
        )
    return g
