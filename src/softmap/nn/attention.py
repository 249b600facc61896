"""The attention layer: projections, head layout, positions, the edited map, output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softmap.backbone import Backbone, check_size
from softmap.errors import SoftmapError
from softmap.fields import check
from softmap.maps import Edit, Tensors, check_defined, compute_dtype, keeps_keys
from softmap.nn.cache import ONE_DOCUMENT, LayerCache
from softmap.nn.context import Context, check_context, check_layer, check_none
from softmap.nn.layers import RMSNorm, make_projection, narrowed
from softmap.nn.positions import Positions, rotate
from softmap.nn.record import Record
from softmap.nn.share import Share, shared_attention
from softmap.nn.tokens import Tokens, taken
from softmap.ops import attention, attention_map
from softmap.ops.heads import Heads
from softmap.ops.native import tokens as native_tokens
from softmap.variants import load, sized


class Attention(nn.Module):
    """Attention of any variant: ``Attention(512, 8, "diff+dcmha")(x)``.

    Args:
        dim: the model width D.
        heads: H, the heads of a plain Transformer of this width; the variant derives its own (diff:
            H/2 heads with values of width 2d; diff2: 2H query heads).
        variant: anything [`softmap.variants.load`][] takes.
        kv_heads: the number of key and value heads (GQA); by default H.
        head_dim: the head width d; by default D / H.
        layer, depth: the layer's index, from 0, and the number of layers, for variants whose start
            depends on them.
        window: the number of keys that a row sees, its own included; under a pattern of local and
            global layers, in the local ones.
        impl: the backend of ``softmap.attention``.
        causal: if False, every token sees every token (a window then extends to both sides), and
            rows may attend to another sequence: ``layer(x, context=y)``.
        backbone: fields of [`softmap.nn.Backbone`][], e.g. ``position="none"``.

    Raises ``ValueError`` where heads, widths or members of the variant do not fit together, and
    with ``causal=False`` for an edit that is defined for causal attention alone.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        variant: Any = "transformer++",
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        layer: int = 0,
        depth: int = 1,
        window: int | None = None,
        impl: str = "auto",
        causal: bool = True,
        **backbone: Any,
    ) -> None:
        super().__init__()
        parts = load(variant).parts
        fields = {**parts.backbone, **backbone}
        if window is not None and "L" in fields.get("pattern", "G"):
            fields["window"] = window
        b = self.backbone = Backbone.of(fields)
        check_size("heads", heads)
        optional = {"kv_heads": kv_heads, "head_dim": head_dim, "window": window}
        for name, size in optional.items():
            if size is not None:
                check_size(name, size)
        if head_dim is None and dim % heads:
            raise SoftmapError(f"dim must be a multiple of heads, found {dim} and {heads}")
        self.dim = dim
        self.head_dim = d = head_dim or dim // heads
        self.window = b.layer_window(layer) if "L" in b.pattern else window
        check("causal", causal, bool)
        self.impl, self.causal = impl, causal
        maps = heads * b.query_expansion
        edits, shapes = sized(parts, heads, maps, d, dim, layer, depth)
        check_defined(edits, "causal" if causal else "self")
        self.edits = nn.ModuleList(edits)
        self.heads = _layout(heads, maps, shapes.outputs, kv_heads or heads)
        self.value_dim = shapes.value_dim
        self._make_projections(dim, b, layer)
        eps = b.norm_eps if b.qk_norm_eps is None else b.qk_norm_eps
        self.q_norm = RMSNorm(d, eps) if b.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(d, eps) if b.qk_norm else nn.Identity()

    def _make_projections(self, dim: int, b: Backbone, layer: int) -> None:
        h, d = self.heads, self.head_dim
        self.q_proj = nn.Linear(dim, h.maps * d, bias=b.bias)
        self.k_proj = nn.Linear(dim, h.keys * d, bias=b.bias)
        kind = b.layer_value(layer)
        self.v_proj = make_projection(kind, dim, h.values * self.value_dim, b.bias, "value")
        self.o_proj = make_projection(b.output, h.outputs * self.value_dim, dim, b.bias, "output")
        if b.zero_query:
            nn.init.zeros_(self.q_proj.weight)
        if b.output == "linear" and b.starts_at_zero("attention"):
            nn.init.zeros_(self.o_proj.weight)  # type: ignore[arg-type]

    def forward(
        self,
        x: Tensor,
        positions: Positions | None = None,
        cache: LayerCache | None = None,
        key_mask: Tensor | None = None,
        documents: Tensor | None = None,
        record: Record | None = None,
        *,
        context: Tensor | Context | None = None,
        context_mask: Tensor | None = None,
        context_positions: Positions | None = None,
    ) -> Tensor:
        """Returns the layer's output (B, T, D) for its normed input x (B, T, D).

        Args:
            positions: those of all tokens up to the last of x; by default they follow from
                ``key_mask`` (B, S), 1 at real tokens, and ``documents`` (B, S), the document of
                each token where several are packed.
            cache: from [`new_cache`][]; x then holds only the new tokens.
            record: receives the edited map, if it wants maps.
            context: (B, S, D), already normed: x attends to these tokens instead of its own; or the
                result of [`project_context`][].
            context_mask: (B, S), 1 at the context's real tokens.
            context_positions: the context's positions; without them there are no rotary positions.

        Raises ``ValueError`` for x or context of another shape, for documents beside a cache, and
        for options that bidirectional or cross-attention does not have.
        """
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise SoftmapError(f"x must be (batch, tokens, {self.dim}), found {tuple(x.shape)}")
        if cache is not None and documents is not None:
            raise SoftmapError(ONE_DOCUMENT)
        x, T = narrowed(x), x.shape[1]
        if context is not None:
            check_none("is of x's own keys: expected None beside context", documents=documents,
                       cache=cache)  # fmt: skip
            keys = self._context(x, context, context_mask, context_positions)
            positions = positions or Positions.of(T, key_mask, x.device)
            return self._projected(self._across(x, positions, keys, record))
        mask, at = context_mask, context_positions
        check_none("belongs to context: expected both", context_mask=mask, context_positions=at)
        if positions is None:
            seen = None if cache is None else cache.seen
            positions = Positions.of((seen or 0) + T, key_mask, x.device, documents, seen)
            if cache is not None:
                cache.check_mask(key_mask)
        if not self.causal:
            why = "is of rows that see no later token: expected None with causal=False"
            check_none(why, cache=cache, share=positions.share)
        q, k, v = self.project(x, positions)
        tokens = Tokens(q, k, v, self._tensors(x, q, k, cache))
        if positions.share is not None:
            return self._projected(self._shared(positions.share, tokens, positions))
        tokens, at, rows, running = self._held(tokens, positions, cache)
        q, k, v, tensors = tokens
        mask = at.key_mask if self.causal else at.valid
        where: Any = {"key_mask": mask, "documents": at.starts, "cols": at.cols}
        where |= {"tensors": tensors, "window": self.window, "causal": self.causal}
        if record is not None and record.wants_maps:
            groups = self.heads.values
            weights = attention_map(q, k, self._edits, value_heads=groups, **where)
            weights = weights if rows is None else taken(weights, rows.argsort(1), 2)
            record.add_map(weights, T, positions.cols.shape[1], positions.held_order)
        o = attention(q, k, v, self._edits, impl=self.impl, running=running, **where)
        o = o if rows is None else taken(o, rows.argsort(1), 2)
        return self._projected(o[:, :, -T:])

    def _tensors(self, x: Tensor, q: Tensor, k: Tensor, cache: LayerCache | None) -> list[Tensors]:
        """Returns the edits' tensors for the tokens of x.

        While nothing is trained, a cache keeps those of the layer: they belong to the weights that
        its keys come from, and would otherwise be computed for every token.
        """
        if cache is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return [e(x, q, k) for e in self._edits]
        made = []
        for e in self._edits:
            layer = cache.layer.get(e)
            if layer is not None and (own := native_tokens.tensors(e, x)) is not None:
                made.append(Tensors(layer, *own))
            else:
                made.append(e(x, q, k, layer=layer))
                cache.layer[e] = made[-1].layer
        return made

    def _context(
        self, x: Tensor, context: Tensor | Context, mask: Tensor | None, at: Positions | None
    ) -> Context:
        """Returns the context of x, projected."""
        if not isinstance(context, Context):
            return self.project_context(context, mask, at)
        check_none("belongs to project_context: expected None beside what that returned",
                   context_mask=mask, context_positions=at)  # fmt: skip
        return context

    def project_context(
        self, context: Tensor, mask: Tensor | None = None, positions: Positions | None = None
    ) -> Context:
        """Returns keys, values and edits' tensors of a context (B, S, D), to be used several times.

        Args:
            mask: (B, S), 1 at real tokens; by default that of the positions.
            positions: those of the context's tokens, if keys are to have rotary positions.

        Raises ``ValueError`` for a causal layer, an edit or a window that is not defined across
        sequences, and a context or mask of another shape.
        """
        check_layer(self.causal, self.window)
        check_defined(self._edits, "cross")
        check_context(context, self.dim, positions)
        context = narrowed(context)
        if mask is None and positions is not None:
            mask = positions.mask
        at = Positions.of(context.shape[1], mask, context.device)
        k, v = self._keys(context, positions)
        key = [e(context, k=k, of="key").key for e in self._edits]
        if at.padding != "among":
            return Context(k, v, key, at.valid, None, positions is not None)
        order = at.order(k.shape[2])
        k, v = taken(k, order, 2), taken(v, order, 2)
        key = [{n: taken(t, order, 1) for n, t in group.items()} for group in key]
        return Context(k, v, key, at.arranged(order).valid, order, positions is not None)

    def _across(
        self, x: Tensor, positions: Positions, context: Context, record: Record | None
    ) -> Tensor:
        """Returns the attention of x to the context, (B, H', T, d')."""
        q = self._queries(x, positions if context.rotated else None)
        tensors = [
            e(x, q, of="query")._replace(key=key)
            for e, key in zip(self._edits, context.key, strict=True)
        ]
        where: Any = {"key_mask": context.mask, "tensors": tensors, "causal": False}
        if record is not None and record.wants_maps:
            groups = self.heads.values
            weights = attention_map(q, context.k, self._edits, value_heads=groups, **where)
            record.add_map(weights, q.shape[2], context.k.shape[2], context.order)
        return attention(q, context.k, context.v, self._edits, impl=self.impl, **where)

    def _projected(self, o: Tensor) -> Tensor:
        """Returns the output projection of (B, H', T, d'), (B, T, D)."""
        return self.o_proj(o.transpose(1, 2).flatten(2))

    def _shared(self, share: Share, own: Tokens, at: Positions) -> Tensor:
        """Returns the rows of this rank's tokens, (B, H', n, d')."""

        def attend(q: Tensor, k: Tensor, v: Tensor, tensors: list[Tensors], keys: int) -> Tensor:
            starts = None if at.starts is None else at.starts[:, :keys]
            where: Any = {"tensors": tensors, "documents": starts, "cols": at.cols[:, :keys]}
            return attention(q, k, v, self._edits, impl=self.impl, window=self.window, **where)

        return shared_attention(share, own, self._edits, attend)

    def _held(
        self, new: Tokens, at: Positions, cache: LayerCache | None
    ) -> tuple[Tokens, Positions, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Returns what the rows of the new tokens read, as [`LayerCache.extend`][] does."""
        if cache is not None:
            return cache.extend(new, at)
        if at.padding != "among":
            return new, at, None, None
        order = at.order(new.k.shape[2])
        return new.arranged(order, order), at.arranged(order), order, None

    def project(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q (B, H, T, d), k (B, G, T, d) and v (B, G', T, d') of the last T positions,
        normed and rotated.
        """
        return self._queries(x, positions), *self._keys(x, positions)

    def _queries(self, x: Tensor, positions: Positions | None) -> Tensor:
        return self._rotated(self.q_norm(_split(self.q_proj(x), self.head_dim)), positions)

    def _keys(self, x: Tensor, positions: Positions | None) -> tuple[Tensor, Tensor]:
        k = self._rotated(self.k_norm(_split(self.k_proj(x), self.head_dim)), positions)
        return k, _split(self.v_proj(x), self.value_dim).to(k.dtype)

    def _rotated(self, t: Tensor, positions: Positions | None) -> Tensor:
        """Returns queries or keys (B, H, T, d) with rotary positions, if the layer has them."""
        b = self.backbone
        if b.position != "rope" or positions is None:
            return t
        width = int(self.head_dim * b.rotary_fraction) // 2 * 2  # an even number of channels
        by = positions.angles(t.shape[2], width, b.rope_theta, compute_dtype(t))
        return rotate(t, by, b.rotary_interleaved)

    def maps(self, x: Tensor, context: Tensor | Context | None = None) -> Tensor:
        """Returns the edited weights for x (B, T, D): (B, H', T, T), or (B, H', T, S) for a
        context.
        """
        record = Record(wants_maps=True)
        self.forward(x, record=record, context=context)  # past hooks, which may be the caller
        return record.maps[0]

    @property
    def takes_prefix(self) -> bool:
        """Whether the layer's cache consists of keys and values alone."""
        cache, h = self.new_cache(), self.heads
        own = any(map(keeps_keys, self._edits))
        return (
            cache.keeps_all and not own and h.keys == h.values and self.head_dim == self.value_dim
        )

    @property
    def _edits(self) -> list[Edit]:
        return list(self.edits)  # type: ignore[arg-type]

    def can_fill(self, cache: LayerCache) -> bool:
        """Whether a cache belongs to a layer with the same window and the same kinds of edits."""
        kinds = [[type(e) for e in edits] for edits in (cache.edits, self.edits)]
        return cache.window == self.window and kinds[0] == kinds[1]

    def new_cache(self) -> LayerCache:
        """Returns an empty cache for this layer."""
        return LayerCache(self.edits, self.window)


def _split(x: Tensor, width: int) -> Tensor:
    """Returns (B, T, heads * width) as (B, heads, T, width)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _layout(heads: int, maps: int, outputs: int, kv_heads: int) -> Heads:
    """Returns the head counts; values follow the output heads, which are fewer and wider in
    diff.
    """
    if heads % kv_heads:
        raise SoftmapError(
            f"heads must be a multiple of key/value heads, found {heads} and {kv_heads}"
        )
    if kv_heads * outputs % heads:
        raise SoftmapError(
            f"this variant turns {heads} heads into {outputs} and needs {outputs}/{heads} as many "
            f"value heads as key heads: found {kv_heads} key/value heads"
        )
    return Heads(maps, kv_heads, kv_heads * outputs // heads, outputs)
