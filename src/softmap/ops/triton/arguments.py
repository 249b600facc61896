"""The chains of a call as kernel arguments: tile functions, constants, bundles of pointers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from softmap.ops.triton.common import bundle, dot_precision
from softmap.ops.triton.edits import EDITS, options
from softmap.ops.triton.matrices import SIDES, of_link
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
    heads: tuple[int, int],
    tensors: dict[str, Tensor],
    own: list[dict[str, Tensor]],
    grads: list[dict[str, Tensor]] | None,
) -> Chain:
    """Returns a stage of the call; ``own`` and ``grads`` hold the tensors and gradients of each
    link.

    Args:
        heads: of the maps that enter it, and of the tile.
    """
    (maps, tile_heads), batch = heads, tensors["q"].shape[0]
    exact = dot_precision(tensors["q"].dtype) == "ieee"
    rows: list[tuple[Any, ...]] = []
    for n, (link, t) in enumerate(zip(links, own, strict=True)):
        tile = EDITS[link.kernel]
        if tile.mixes:
            args, into = _matrices(t, tile_heads, tensors, grads[n] if grads else {})
        else:
            args = [_bundle(t.get(name), link, name, batch) for name in tile.tensors]
            into = [bundle(grads[n].get(name)) if grads else None for name in tile.tensors]
        args += [bundle(tensors[name], batch) for name in tile.extras]
        constants = options(link.kernel, maps, t, exact)
        rows.append((tile.forward, tile.adjoint, constants, tuple(args), tuple(into)))
        if tile.halves:
            maps, tile_heads = maps // 2, tile_heads // 2
    return Chain(*(tuple(row[n] for row in rows) for n in range(5)))


def _matrices(
    t: dict[str, Tensor], heads: int, tensors: dict[str, Tensor], into: dict[str, Tensor]
) -> tuple[list[Any], list[Any]]:
    q, k = tensors["q"], tensors["k"]
    both = of_link(t, heads, {"rows": q.shape[2], "keys": k.shape[2]}, q.dtype)
    args = [None if m is None else bundle(m, q.shape[0]) for m in both]
    return args, [bundle(into.get(side)) for side in SIDES]


def _bundle(t: Tensor | None, link: Link, name: str, batch: int) -> Any:
    kind = dict(link.tensors).get(name)
    return bundle(t, 1 if kind == "layer" else batch)


def own_tensors(spec: Spec, flat: list[Tensor]) -> tuple[list[dict[str, Tensor]], ...]:
    """Returns the tensors of each link by name, for the scores and for the weights stage."""
    it = iter(flat[len(FIXED) :])
    return tuple(
        [{name: next(it) for name, _ in link.tensors} for link in links]
        for links in (spec.scores, spec.weights)
    )
