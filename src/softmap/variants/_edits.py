"""The edits of a variant at the sizes of one layer: a module that ``softmap.attention`` takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.fields import Range, check
from softmap.maps import Edit, heads_after, needs_input
from softmap.variants._load import load
from softmap.variants._parts import Parts, build
from softmap.variants._text import Spec


@dataclass(frozen=True)
class Shapes:
    """The shapes that the edits of a layer take: q (B, maps, T, d), k (B, G, S, d), v (B, G',
    S, d').

    Attributes:
        heads: H of a plain Transformer of this width; G divides it.
        maps: the number of query heads.
        outputs: the number of heads after the edits; G' = G * outputs / H.
        head_dim: d.
        value_dim: d', the width with which the output heads have H d channels together.
        dim: D of x (B, S, D).
    """

    heads: int
    maps: int
    outputs: int
    head_dim: int
    value_dim: int
    dim: int

    def values(self, keys: int) -> int:
        """Returns the number of value heads for this number of key heads, or 0 where these do
        not fit.
        """
        whole = keys and not self.heads % keys and not keys * self.outputs % self.heads
        return keys * self.outputs // self.heads if whole else 0

    def __str__(self) -> str:
        values = self.values(self.heads)
        return (
            f"q (B, {self.maps}, T, {self.head_dim}), k (B, {self.heads}, S, {self.head_dim}), "
            f"v (B, {values}, S, {self.value_dim})"
        )


class Edits(nn.ModuleList):
    """The edits of one layer, in order, as [`edits`][] returns them.

    Args:
        shapes: the [`Shapes`][] that they were built for; None in a slice.
        backbone: fields of ``softmap.nn.Backbone`` that the variant sets beside its edits and that
            the caller has to follow: positions, norms of q and k, blocks.
    """

    def __init__(
        self,
        edits: Iterable[Edit] = (),
        shapes: Shapes | None = None,
        backbone: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(edits)
        self.shapes = shapes
        self.backbone = dict(backbone or {})

    def check(self, q: Tensor, k: Tensor, v: Tensor, x: Any = None) -> None:
        """Raise ``ValueError`` unless a call's tensors have the shapes of these edits.

        The width of v is free where no output edit reads it.
        """
        shapes = self.shapes
        if shapes is None:
            return
        width = {v.shape[3], shapes.value_dim} if any(e.stage == "output" for e in self) else ()
        fits = (q.shape[1], q.shape[3]) == (shapes.maps, shapes.head_dim)
        if not fits or v.shape[1] != shapes.values(k.shape[1]) or len(width) > 1:
            raise SoftmapError(
                f"edits for heads={shapes.heads}, head_dim={shapes.head_dim} take {shapes}; "
                f"found q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
            )
        reads = any(needs_input(e) for e in self)  # type: ignore[arg-type]
        if reads and isinstance(x, Tensor) and x.shape[-1:] != (shapes.dim,):
            raise SoftmapError(
                f"edits for dim={shapes.dim} take x (B, S, {shapes.dim}), found {tuple(x.shape)}"
            )


Size = Annotated[int, Range(1, 2**31 - 1)]


def edits(
    variant: Spec,
    *,
    heads: int,
    head_dim: int,
    dim: int | None = None,
    layer: int = 0,
    depth: int = 1,
) -> Edits:
    """Returns the edits of a variant, as [`softmap.nn.Attention`][] builds them, for your own
    q, k, v.

        edits = softmap.edits("dcmha", heads=8, head_dim=64, dim=512)
        o = softmap.attention(q, k, v, edits, x=x)

    They are an ``nn.ModuleList``: parameters train, move and save with the module that holds it.
    The edits are the part of a variant that concerns the map: what else it asks of a layer (no
    RoPE, QK norm) is in ``edits.backbone``, and yours to do before the call.

    Args:
        variant: anything [`load`][] takes.
        heads: H of a plain Transformer of this width, as everywhere; the variant derives its own
            counts, and ``str(edits.shapes)`` says which q, k and v it takes (diff: half as many
            value heads of width 2d; diff2: 2H query heads). k may have G < H heads (grouped
            queries).
        head_dim: the width d of q and k.
        dim: the width of the layer's input x; by default heads * head_dim.
        layer, depth: the layer's index, from 0, and the number of layers, for variants whose start
            depends on them.

    Raises ``ValueError`` for an unknown variant, and for sizes that do not fit it.
    """
    for name, size in (("heads", heads), ("head_dim", head_dim), ("depth", depth)):
        check(f"edits: {name}", size, Size)
    check("edits: dim", dim, Size | None)
    check("edits: layer", layer, Annotated[int, Range(0, 2**31 - 1)])
    if layer >= depth:
        raise SoftmapError(f"edits: layer counts from 0 and is below depth={depth}, found {layer}")
    parts = load(variant).parts
    maps = heads * parts.backbone.get("query_expansion", 1)
    dim = heads * head_dim if dim is None else dim
    return Edits(*sized(parts, heads, maps, head_dim, dim, layer, depth), parts.backbone)


def sized(
    parts: Parts, heads: int, maps: int, head_dim: int, dim: int, layer: int, depth: int
) -> tuple[list[Edit], Shapes]:
    """Returns the edits of a layer with ``heads`` heads and ``maps`` query heads, and their
    shapes.
    """
    made = build(parts, maps, dim, head_dim, heads * head_dim, layer, depth)
    outputs = heads_after(made, maps)
    return made, Shapes(heads, maps, outputs, head_dim, heads * head_dim // outputs, dim)
