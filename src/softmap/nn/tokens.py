"""The tensors of a layer's map, and how they are ordered where padding lies among tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from softmap.maps import Tensors


class Tokens(NamedTuple):
    """The queries, keys and values of a layer, with the edits' tensors.

    q (B, H, R, d) belongs to the last R tokens; k is (B, G, S, d), v (B, G', S, d'), the edits'
    tensors are (B, R, ...) of queries and (B, S, ...) of keys.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    tensors: list[Tensors]

    def first(self, n: int) -> Tokens:
        """Returns the first ``n``, where all tokens are new."""
        q, k, v = (t[:, :, :n] for t in (self.q, self.k, self.v))
        cut = partial(_each, lambda t: t[:, :n])
        tensors = [t._replace(query=cut(t.query), key=cut(t.key)) for t in self.tensors]
        return Tokens(q, k, v, tensors)

    def arranged(self, order: Tensor, rows: Tensor) -> Tokens:
        """Returns keys in the ``order`` (B, S), and queries in that of the ``rows`` (B, R)."""
        q, k, v = taken(self.q, rows, 2), taken(self.k, order, 2), taken(self.v, order, 2)
        of_rows, of_keys = (partial(_each, partial(taken, order=o, axis=1)) for o in (rows, order))
        tensors = [t._replace(query=of_rows(t.query), key=of_keys(t.key)) for t in self.tensors]
        return Tokens(q, k, v, tensors)


def taken(t: Tensor, order: Tensor, axis: int) -> Tensor:
    """Returns the entries of ``axis`` of ``t`` in each sequence's own ``order`` (B, m)."""
    where = [1] * t.ndim
    where[0], where[axis] = order.shape
    wanted = [order.shape[0], *t.shape[1:]]
    wanted[axis] = order.shape[1]
    return t.expand(order.shape[0], *t.shape[1:]).gather(axis, order.view(where).expand(wanted))


def _each(f: Callable[[Tensor], Tensor], group: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: f(t) for name, t in group.items()}
