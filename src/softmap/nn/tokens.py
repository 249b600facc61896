"""The tensors of one layer's map, and how they are put in order where padding lies among tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from softmap.maps import Tensors


class Tokens(NamedTuple):
    """q (B, H, R, d) of the last R tokens; k (B, G, S, d), v (B, G', S, d') and the edits' tensors
    (B, R, ...) of queries and (B, S, ...) of keys."""

    q: Tensor
    k: Tensor
    v: Tensor
    tensors: list[Tensors]

    def first(self, n: int) -> Tokens:
        """Only the first ``n``, where all of them are new."""
        q, k, v = (t[:, :, :n] for t in (self.q, self.k, self.v))
        cut = partial(_each, lambda t: t[:, :n])
        tensors = [t._replace(query=cut(t.query), key=cut(t.key)) for t in self.tensors]
        return Tokens(q, k, v, tensors)

    def arranged(self, order: Tensor, rows: Tensor) -> Tokens:
        """Keys in the ``order`` (B, S), queries in that of the ``rows`` (B, R)."""
        q, k, v = taken(self.q, rows, 2), taken(self.k, order, 2), taken(self.v, order, 2)
        of_rows, of_keys = (partial(_each, partial(taken, order=o, axis=1)) for o in (rows, order))
        tensors = [t._replace(query=of_rows(t.query), key=of_keys(t.key)) for t in self.tensors]
        return Tokens(q, k, v, tensors)


def taken(t: Tensor, order: Tensor, axis: int) -> Tensor:
    """``t`` (b, ..., n, ...), the entries of ``axis`` in each sequence's own ``order`` (B, m)."""
    where = [1] * t.ndim
    where[0], where[axis] = order.shape
    wanted = [order.shape[0], *t.shape[1:]]
    wanted[axis] = order.shape[1]
    return t.expand(order.shape[0], *t.shape[1:]).gather(axis, order.view(where).expand(wanted))


def _each(f: Callable[[Tensor], Tensor], group: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: f(t) for name, t in group.items()}
