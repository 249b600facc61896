"""The attention layer: projections, head layout, positions, the edited map, output."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from softmap.backbone import Backbone, check_size
from softmap.errors import SoftmapError
from softmap.maps import Edit, Tensors, compute_dtype, keeps_keys
from softmap.nn.cache import ONE_DOCUMENT, LayerCache
from softmap.nn.layers import RMSNorm, make_projection, narrowed
from softmap.nn.positions import Positions, rotate
from softmap.nn.record import Record
from softmap.nn.share import Share, shared_attention
from softmap.nn.tokens import Tokens, taken
from softmap.ops import attention, attention_map
from softmap.ops.heads import Heads
from softmap.variants import load, sized


class Attention(nn.Module):
    """Drop-in causal attention of any variant: ``Attention(512, 8, "diff+dcmha")(x)``.

    dim: model width D. heads: H of a plain Transformer of this width; the variant derives its own
    (diff: H/2 heads with values of width 2d; diff2: 2H query heads). kv_heads: fewer key/value
    heads (GQA). layer, depth: place in the model, from 0, for variants whose start depends on it.
    window: keys that a row sees, its own included; under a pattern of local and global layers,
    the rows of a local one. impl: backend of ``softmap.attention``.
    Further keywords are fields of :class:`softmap.nn.Backbone`, e.g. ``position="none"``.

    Raises ``ValueError`` where heads, widths or members of the variant do not fit.
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
        self.impl = impl
        maps = heads * b.query_expansion
        edits, shapes = sized(parts, heads, maps, d, dim, layer, depth)
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
    ) -> Tensor:
        """x (B, T, D), already normed, to (B, T, D).

        positions: of all tokens up to the last of x; computed from ``key_mask`` (B, S: 1 at real
        tokens) and ``documents`` (B, S: the document of each token, where several are packed) if
        not given. cache: from :meth:`new_cache`; x then holds only the new tokens. record: takes
        the edited map, where it wants maps.

        Raises ``ValueError`` for x of another shape, and for documents beside a cache.
        """
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise SoftmapError(f"x must be (batch, tokens, {self.dim}), found {tuple(x.shape)}")
        if cache is not None and documents is not None:
            raise SoftmapError(ONE_DOCUMENT)
        x, T = narrowed(x), x.shape[1]
        if positions is None:
            seen = None if cache is None else cache.seen
            positions = Positions.of((seen or 0) + T, key_mask, x.device, documents, seen)
            if cache is not None:
                cache.check_mask(key_mask)
        q, k, v = self.project(x, positions)
        tokens = Tokens(q, k, v, [e(x, q, k) for e in self._edits])
        if positions.share is not None:
            return self._projected(self._shared(positions.share, tokens, positions))
        tokens, at, rows, running = self._held(tokens, positions, cache)
        q, k, v, tensors = tokens
        where: Any = {"key_mask": at.key_mask, "documents": at.starts, "cols": at.cols}
        where |= {"tensors": tensors, "window": self.window}
        if record is not None and record.wants_maps:
            groups = self.heads.values
            weights = attention_map(q, k, self._edits, value_heads=groups, **where)
            weights = weights if rows is None else taken(weights, rows.argsort(1), 2)
            record.add_map(weights, T, positions.cols.shape[1], positions.held_order)
        o = attention(q, k, v, self._edits, impl=self.impl, running=running, **where)
        o = o if rows is None else taken(o, rows.argsort(1), 2)
        return self._projected(o[:, :, -T:])

    def _projected(self, o: Tensor) -> Tensor:
        """(B, H', T, d') to (B, T, D)."""
        return self.o_proj(o.transpose(1, 2).flatten(2))

    def _shared(self, share: Share, own: Tokens, at: Positions) -> Tensor:
        """The rows of this rank's tokens, (B, H', n, d')."""

        def attend(q: Tensor, k: Tensor, v: Tensor, tensors: list[Tensors], keys: int) -> Tensor:
            starts = None if at.starts is None else at.starts[:, :keys]
            where: Any = {"tensors": tensors, "documents": starts, "cols": at.cols[:, :keys]}
            return attention(q, k, v, self._edits, impl=self.impl, window=self.window, **where)

        return shared_attention(share, own, self._edits, attend)

    def _held(
        self, new: Tokens, at: Positions, cache: LayerCache | None
    ) -> tuple[Tokens, Positions, Tensor | None, tuple[Tensor, Tensor] | None]:
        """What the new tokens' rows read, as :meth:`LayerCache.extend` gives it."""
        if cache is not None:
            return cache.extend(new, at)
        if at.padding != "among":
            return new, at, None, None
        order = at.order(new.k.shape[2])
        return new.arranged(order, order), at.arranged(order), order, None

    def project(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, T, d), k (B, G, T, d), v (B, G', T, d') of the last T positions, normed and
        rotated."""
        b, d = self.backbone, self.head_dim
        q = self.q_norm(_split(self.q_proj(x), d))
        k = self.k_norm(_split(self.k_proj(x), d))
        if b.position == "rope":
            width = int(d * b.rotary_fraction) // 2 * 2  # an even number of channels
            by = positions.angles(x.shape[1], width, b.rope_theta, compute_dtype(q))
            q, k = rotate(q, by, b.rotary_interleaved), rotate(k, by, b.rotary_interleaved)
        v = _split(self.v_proj(x), self.value_dim)
        return q, k, v.to(k.dtype)

    def maps(self, x: Tensor) -> Tensor:
        """The edited weights for x (B, T, D): (B, H', T, T)."""
        positions = Positions.of(x.shape[1], None, x.device)
        q, k, _ = self.project(x, positions)
        tensors: list[Tensors] = [e(x, q, k) for e in self._edits]
        values = self.heads.values
        return attention_map(
            q, k, self._edits, value_heads=values, tensors=tensors, window=self.window
        )

    @property
    def takes_prefix(self) -> bool:
        """Whether keys and values alone are all that its cache would hold of a token."""
        cache, h = self.new_cache(), self.heads
        own = any(map(keeps_keys, self._edits))
        return (
            cache.keeps_all and not own and h.keys == h.values and self.head_dim == self.value_dim
        )

    @property
    def _edits(self) -> list[Edit]:
        return list(self.edits)  # type: ignore[arg-type]

    def can_fill(self, cache: LayerCache) -> bool:
        """Whether a cache is of a layer with the same window and kinds of edits."""
        kinds = [[type(e) for e in edits] for edits in (cache.edits, self.edits)]
        return cache.window == self.window and kinds[0] == kinds[1]

    def new_cache(self) -> LayerCache:
        """An empty cache for this layer."""
        return LayerCache(self.edits, self.window)


def _split(x: Tensor, width: int) -> Tensor:
    """(B, T, heads * width) to (B, heads, T, width)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _layout(heads: int, maps: int, outputs: int, kv_heads: int) -> Heads:
    """Values follow the output heads: fewer, wider ones when pairs are subtracted (diff)."""
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
