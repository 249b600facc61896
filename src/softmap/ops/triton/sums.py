"""Where the backward kernels add up the gradients of the edits' tensors, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from softmap.ops.triton import matrices
from softmap.ops.triton.arguments import Grads
from softmap.ops.triton.edits import EDITS
from softmap.ops.triton.launch import constants_of, grid_of
from softmap.ops.triton.plan import FIXED, Link, Spec, named


class Sums:
    """Zeros in float32 for each edit. needs: which of the flat tensors a gradient is wanted of.

    A tensor that all tokens share gets one copy for each program of ``rows``; a composition of
    heads gets H x H numbers for each token of a side that has a gradient, and room for whole tiles.
    """

    def __init__(self, flat: list[Tensor], spec: Spec, needs: list[bool]) -> None:
        self.flat, self.spec, self.needs, t = flat, spec, needs, named(flat)
        self.batch, self.device = t["q"].shape[0], t["q"].device
        rows, keys = (constants_of(kernel, spec, t)[0] for kernel in ("rows", "keys"))
        tiles, others = grid_of(t["q"].shape[2], rows.rows, self.batch, spec)
        self.copies = tiles * others
        self.tokens = {"rows": t["q"].shape[2], "keys": t["k"].shape[2]}
        self.room = {
            "rows": tiles * rows.rows,
            "keys": grid_of(self.tokens["keys"], keys.keys, 1, spec)[0] * keys.keys,
        }
        self.links = list(self._links())
        self.sums = [self._of_link(*found) for found in self.links]

    @property
    def stages(self) -> Grads:
        """Of the scores' links and of the weights'."""
        n = len(self.spec.scores)
        return self.sums[:n], self.sums[n:]

    def _links(self) -> Iterator[tuple[Link, int, dict[str, int]]]:
        """Yields each link, the heads of the tile that it sees, and its tensors' places in the flat
        list.
        """
        place, heads = len(FIXED), self.spec.tile_heads()[0]
        for link in self.spec.scores + self.spec.weights:
            at = {name: place + n for n, (name, _) in enumerate(link.tensors)}
            yield link, heads, at
            place += len(at)
            heads = heads // 2 if EDITS[link.kernel].halves else heads

    def _of_link(self, link: Link, heads: int, at: dict[str, int]) -> dict[str, Tensor]:
        wanted = [name for name, place in at.items() if self.needs[place]]
        if EDITS[link.kernel].mixes:
            return {
                side: self._zeros(self.batch, self.room[side], heads * heads)
                for side, names in matrices.SIDES.items()
                if not set(names).isdisjoint(wanted)
            }
        if EDITS[link.kernel].together and wanted:
            wanted = list(at)
        return {name: self._of_tensor(self.flat[at[name]], kind)
                for name, kind in link.tensors if name in wanted}  # fmt: skip

    def _of_tensor(self, t: Tensor, kind: str) -> Tensor:
        if kind == "layer":
            return self._zeros(self.copies, *(t.shape or (1,)))
        return self._zeros(self.batch, *t.shape[1:])

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=self.device)

    def gradients(self) -> dict[int, Tensor]:
        """Returns the gradients that are needed, by place in the flat list; not yet in the tensors'
        shapes.
        """
        found: dict[int, Tensor] = {}
        for (link, heads, at), sums in zip(self.links, self.sums, strict=True):
            if EDITS[link.kernel].mixes:
                t = {name: self.flat[place] for name, place in at.items()}
                sums = matrices.gradients(t, sums, heads, self.tokens)
            found |= {at[name]: g for name, g in sums.items() if self.needs[at[name]]}
        return found
