"""Maps of low rank and their gradients as matrix products over all channels of all heads.

With x, y the vectors of the rows and of the keys, f and g the factors of either:

    Q_r[i,j] = sum_h f[i,r,h] <x[h,i], y[h,j]>     K_r[i,j] = sum_h g[j,r,h] <x[h,i], y[h,j]>

The inner dimension is heads x channels, so a GPU's matrix units do the work. The gradients of x, y,
f and g from those of the maps are products of the same sizes:

    z_r[i] = sum_j dQ_r[i,j] y[j]       dx = sum_r f_r z_r + sum_r dK_r (g_r y)     df_r = <x, z_r>
    w_r[j] = sum_i dK_r[i,j] x[i]       dy = sum_r g_r w_r + sum_r dQ_r^T (f_r x)   dg_r = <y, w_r>

``dx`` is also what maps of the weights add to the output, with y the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.ops.triton import low_rank_vectors as vectors
from softmap.ops.triton.closed import over_tokens
from softmap.ops.triton.common import bundle

# Sums over heads of cells that no row sees may exceed what float16 holds; a gradient would multiply
# their infinity by zero.
LARGEST = torch.finfo(torch.float16).max
TILE = 128  # maps lie in memory of whole tiles, the largest that kernels read them by


class Block(NamedTuple):
    """Query rows [top, end) over the keys [first, end) that they may see."""

    top: int
    end: int
    first: int

    @property
    def rows(self) -> slice:
        """The rows, among all."""
        return slice(self.top, self.end)

    @property
    def keys(self) -> slice:
        """The keys, among all."""
        return slice(self.first, self.end)


class Maps(NamedTuple):
    """The maps Q and K of a block, (B, r, rows, keys) each; None where a side has no factors."""

    rows: Tensor | None
    keys: Tensor | None


@dataclass(frozen=True)
class Form:
    """The products of x (B, H, T, d) and y (B, G, T, d), H a multiple of G, weighted by the factors
    f and g (b, T, r, H), either of which may be None.
    """

    x: Tensor
    y: Tensor
    f: Tensor | None
    g: Tensor | None

    @cached_property
    def flat_x(self) -> Tensor:
        """(B, T, H * d)."""
        return self.x.transpose(1, 2).flatten(2)

    @cached_property
    def flat_y(self) -> Tensor:
        """(B, T, G * d)."""
        return self.y.transpose(1, 2).flatten(2)

    @property
    def group(self) -> int:
        """How many heads of x read one of y."""
        return self.x.shape[1] // self.y.shape[1]

    @cached_property
    def fx(self) -> list[Tensor]:
        """f_r x for each r, summed over the heads that read one head of y: (B, T, G * d)."""
        return self._weighed(self.f, self.x, self.y.shape[1])

    @cached_property
    def gy(self) -> list[Tensor]:
        """g_r y for each r, (B, T, H * d)."""
        return self._weighed(self.g, self.y, self.x.shape[1])

    def _weighed(self, factors: Tensor | None, x: Tensor, heads: int) -> list[Tensor]:
        if factors is None:
            return []
        B, of, T, d = x.shape
        room = x.new_empty(factors.shape[2], B, T, heads, d)
        out = [t.transpose(1, 2) for t in room]
        over_tokens(
            vectors.weigh, out[0], bundle(x), bundle(factors, B), tuple(bundle(t) for t in out),
            GROUP=self.group, SUM=heads < of,
        )  # fmt: skip
        return list(room.flatten(3))

    def room(self, at: Block) -> Maps:
        """Returns memory for the maps of a block; what lies beyond them in the last tile is 0."""
        n, keys = at.end - at.top, at.end - at.first

        def of(factor: Tensor | None) -> Tensor | None:
            if factor is None:
                return None
            tiles = whole(n), whole(keys)
            room = self.x.new_empty(len(self.x), factor.shape[2], *tiles)
            room[:, :, n:] = 0
            room[:, :, :, keys:] = 0
            return room[:, :, :n, :keys]

        return Maps(of(self.f), of(self.g))

    def maps(self, at: Block, scale: float) -> Maps:
        """Returns the maps of a block times ``scale``."""
        found = self.room(at)
        for r, fx in enumerate(self.fx):
            _multiply(_of(found.rows, r), fx[:, at.rows], self.flat_y[:, at.keys].mT, scale)
        for r, gy in enumerate(self.gy):
            _multiply(_of(found.keys, r), self.flat_x[:, at.rows], gy[:, at.keys].mT, scale)
        for m in found:
            if m is not None and m.dtype == torch.float16:
                m.clamp_(-LARGEST, LARGEST)
        return found


class Adjoint:
    """Gradients of a form from those of its maps, block by block.

    Args:
        x: whether the gradient of x is wanted.
        rest: whether those of y, f and g are.
    """

    def __init__(self, form: Form, *, x: bool = True, rest: bool = True) -> None:
        self.form, self._rest = form, rest
        (B, H, T, d), G = form.x.shape, form.y.shape[1]
        zeros = partial(torch.zeros, dtype=torch.float32, device=form.x.device)
        self._z = [form.x.new_empty(B, T, G * d) for _ in _each(form.f)]
        self._x = zeros(B, T, H * d) if x and form.g is not None else None
        self._y = zeros(B, T, G * d) if rest and form.f is not None else None
        self._w = [zeros(B, T, H * d) for _ in _each(form.g)] if rest else []

    def add(self, m: Maps, at: Block) -> None:
        """Takes the gradients of a block's maps."""
        form = self.form
        for r, z in enumerate(self._z):
            _multiply(z[:, at.rows], _of(m.rows, r), form.flat_y[:, at.keys], 1.0)
        if self._x is not None:
            for r, gy in enumerate(form.gy):
                _add(self._x[:, at.rows], _of(m.keys, r), gy[:, at.keys])
        if self._y is not None:
            for r, fx in enumerate(form.fx):
                _add(self._y[:, at.keys], _of(m.rows, r).mT, fx[:, at.rows])
        for r, w in enumerate(self._w):
            _add(w[:, at.keys], _of(m.keys, r).mT, form.flat_x[:, at.rows])

    def x(self, more: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the gradient of x plus ``more``, in x's dtype, and that of f unless only x is
        wanted.
        """
        out = torch.empty_like(self.form.x, memory_format=torch.contiguous_format)
        return out, self._gather(self.form.x, self.form.f, self._z, self._x, more, out)

    def y(self, more: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the gradient of y plus ``more``, in y's dtype, and that of g."""
        out = torch.empty_like(self.form.y, memory_format=torch.contiguous_format)
        return out, self._gather(self.form.y, self.form.g, self._w, self._y, more, out)

    def f(self) -> Tensor | None:
        """Returns the gradient of f alone."""
        if self.form.f is None:
            return None
        return self._gather(self.form.x, self.form.f, self._z, None, None, None)

    def _gather(
        self,
        x: Tensor,
        factors: Tensor | None,
        z: list[Tensor],
        own: Tensor | None,
        more: Tensor | None,
        out: Tensor | None,
    ) -> Tensor | None:
        """Stores own + more + sum_r factors_r z_r in ``out``; returns the factors' gradient."""
        (B, heads, T, d), H = x.shape, self.form.x.shape[1]
        df = None
        if factors is not None and self._rest:
            df = x.new_empty(B, T, factors.shape[2], H, dtype=torch.float32)
        over_tokens(
            vectors.gather, x, bundle(x), bundle(factors, B), tuple(_of_heads(t, d) for t in z),
            bundle(more), _of_heads(own, d), bundle(out), bundle(df), GROUP=self.form.group,
            SUM=heads < H,
        )  # fmt: skip
        return df


def _of_heads(t: Tensor | None, d: int) -> Any:
    """Returns (B, T, heads * d) as a bundle of (B, heads, T, d)."""
    return None if t is None else bundle(t.unflatten(2, (-1, d)).transpose(1, 2))


def whole(n: int, *, down: bool = False) -> int:
    """Returns n rounded up, or down, to whole tiles."""
    return (n if down else n + TILE - 1) // TILE * TILE


def _each(t: Tensor | None) -> tuple[Tensor, ...]:
    """Returns the factors (b, T, H) of each r."""
    return () if t is None else t.unbind(2)


def _of(maps: Tensor | None, r: int) -> Tensor:
    assert maps is not None
    return maps[:, r]


def _multiply(out: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """Stores scale a b; the factor is applied before rounding."""
    torch.baddbmm(out, a, b, beta=0.0, alpha=scale, out=out)


def _add(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a b to ``out``, which is float32."""
    if a.dtype == out.dtype:
        torch.baddbmm(out, a, b, out=out)
    elif a.is_cuda:
        torch.baddbmm(out, a, b, out_dtype=out.dtype, out=out)
    else:  # in the interpreter
        out += torch.bmm(a, b)
