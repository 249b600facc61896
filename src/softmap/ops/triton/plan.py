"""A call as kernels see it: what is compiled for it, and what is handed over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from softmap.maps import chain
from softmap.ops.call import Call
from softmap.ops.heads import Heads
from softmap.ops.triton.common import Limits, counts, limits, next_power, only_causal
from softmap.ops.triton.edits import EDITS

LEAST = 16  # heads of a product over heads
FIXED = ("q", "k", "v", "until", "first", "rows", "cols", "count")


class Link(NamedTuple):
    """One edit of a chain: its tile code by name, and (name, kind) of its tensors."""

    kernel: str
    tensors: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Spec:
    """A call without its tensors. A string of it is what an operator of torch is given."""

    heads: tuple[int, int, int, int]
    scale: float
    scores: tuple[Link, ...]
    weights: tuple[Link, ...]
    window: int | None = None

    def dumps(self) -> str:
        """Returns ``maps keys values outputs|scale|kernel name=kind name=kind;kernel ...|...|`` and
        the window, which a compiler that traces this function can form (it cannot call ``json``).
        """
        heads = " ".join([str(n) for n in self.heads])
        chains = [_written(self.scores), _written(self.weights)]
        return "|".join([heads, repr(self.scale), *chains, str(self.window or "")])

    @property
    def mixes(self) -> bool:
        """Whether some edit needs all heads of a cell at once."""
        return any(EDITS[link.kernel].mixes for link in self.scores + self.weights)

    @property
    def low_rank(self) -> bool:
        """Whether the edits are the tile code of compositions of low rank."""
        return any(link.kernel.startswith("low_rank") for link in self.scores + self.weights)

    @property
    def outputs(self) -> int:
        """Maps that the kernel multiplies with values: where no edit mixes, closed forms follow."""
        return self.heads[3] if self.mixes else self.heads[0]

    def tile_heads(self) -> tuple[int, int]:
        """Returns the heads of a tile before and after the weights edits, powers of two; 0: one a
        program.
        """
        if not self.mixes:
            return 0, 0
        halved = sum(EDITS[link.kernel].halves for link in self.weights)
        heads = max(next_power(self.heads[0]), LEAST << halved)
        return heads, heads >> halved


def _written(links: tuple[Link, ...]) -> str:
    words = [[link.kernel, *[f"{name}={kind}" for name, kind in link.tensors]] for link in links]
    return ";".join([" ".join(row) for row in words])


def _read(text: str) -> tuple[Link, ...]:
    rows = [row.split() for row in text.split(";") if row]
    return tuple(Link(row[0], tuple(_pair(word) for word in row[1:])) for row in rows)


def _pair(word: str) -> tuple[str, str]:
    name, kind = word.split("=")
    return name, kind


@lru_cache(maxsize=512)
def loads(text: str) -> Spec:
    """Returns the inverse of ``Spec.dumps``."""
    heads, scale, scores, weights, window = text.split("|")
    maps, keys, values, outputs = (int(n) for n in heads.split())
    chains, seen = (_read(scores), _read(weights)), int(window) if window else None
    return Spec((maps, keys, values, outputs), float(scale), *chains, seen)


def spec_of(call: Call) -> Spec:
    """Returns the chains of a call. Where no edit mixes heads, the weights edits have closed forms
    that act on the output, so no tile code runs for them.
    """
    h: Heads = call.heads
    heads = (h.maps, h.keys, h.values, h.outputs)
    spec = Spec(heads, call.scale, _links(call, "scores"), _links(call, "weights"), call.window)
    return spec if spec.mixes else replace(spec, weights=())


def _links(call: Call, stage: str) -> tuple[Link, ...]:
    links = []
    for n, edit in chain(call.edits, stage):
        t = call.tensors[n]
        named = [(name, kind) for kind, d in zip(t._fields, t, strict=True) for name in d]
        assert edit.kernel is not None
        links.append(Link(edit.kernel, tuple(named)))
    return tuple(links)


def tensors_of_call(call: Call, spec: Spec) -> list[Tensor]:
    """Returns all tensors that the kernels read: ``FIXED``, then those of the links in their order.

    Those of the mask are empty where only causality hides keys: kernels then compare places."""
    none, causal, counted = call.q.new_empty(0), only_causal(call), _counted(spec)
    mask = Limits(none, none) if causal and not counted else limits(call)
    flat = [call.q, call.k, call.v, *((none, none) if causal else mask), call.rows, call.cols]
    flat.append(counts(call, mask) if counted else none)
    stages = ("scores", "weights") if spec.weights else ("scores",)
    for stage in stages:
        for n, _ in chain(call.edits, stage):
            for group in call.tensors[n]:
                flat += group.values()
    return flat


def _counted(spec: Spec) -> bool:
    return any("count" in EDITS[link.kernel].extras for link in spec.weights)


def named(flat: list[Tensor]) -> dict[str, Tensor]:
    """Returns the tensors of [`FIXED`][] by name."""
    return dict(zip(FIXED, flat, strict=False))
