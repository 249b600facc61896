"""The chains of a call as kernel arguments: tile functions, constants, bundles of pointers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from softmap.ops.triton.common import bundle, dot_precision
from softmap.ops.triton.edits import EDITS, options
from softmap.ops.triton.plan import FIXED, Link, Spec

# Where the gradients of each link's tensors are added up, for both stages.
Grads = tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]


class Chain(NamedTuple):
    """One stage as kernel arguments: constants, bundles of tensors, and of their gradients."""

    edits: tuple[Any, ...]
    adjoints: tuple[Any, ...]
    options: tuple[Any, ...]
    args: tuple[Any, ...]
    grads: tuple[Any, ...]


def chain_of(
    links: tuple[Link, ...],
    heads: int,
    tensors: dict[str, Tensor],
    own: list[dict[str, Tensor]],
    grads: list[dict[str, Tensor]] | None,
) -> Chain:
    """A stage of the call; ``own`` and ``grads`` hold the tensors and gradients of each link."""
    batch = tensors["q"].shape[0]
    exact = dot_precision(tensors["q"].dtype) == "ieee"
    rows: list[tuple[Any, ...]] = []
    for n, (link, t) in enumerate(zip(links, own, strict=True)):
        tile = EDITS[link.kernel]
        args = [_bundle(t.get(name), link, name, batch) for name in tile.tensors]
        args += [bundle(tensors[name], batch) for name in tile.extras]
        into = [bundle(grads[n].get(name)) if grads else None for name in tile.tensors]
        constants = options(link.kernel, heads, t, exact)
        rows.append((tile.forward, tile.adjoint, constants, tuple(args), tuple(into)))
        heads = heads // 2 if tile.halves else heads
    return Chain(*(tuple(row[n] for row in rows) for n in range(5)))


def _bundle(t: Tensor | None, link: Link, name: str, batch: int) -> Any:
    kind = dict(link.tensors).get(name)
    return bundle(t, 1 if kind == "layer" else batch)


def own_tensors(spec: Spec, flat: list[Tensor]) -> tuple[list[dict[str, Tensor]], ...]:
    """The tensors of each link by name, for the scores and for the weights stage."""
    it = iter(flat[len(FIXED) :])
    return tuple(
        [{name: next(it) for name, _ in link.tensors} for link in links]
        for links in (spec.scores, spec.weights)
    )
