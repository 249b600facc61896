"""One band of ``chunked``: products of many rows at once, edits of a few rows (a tile) at a
time.

A product of few rows spends its time on packing the keys; the temporaries of an edit of many rows
do not fit into a core's cache. So the two have sizes of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from softmap.maps import compute_dtype
from softmap.ops.call import Call, Region, Span, band_of, edited_map
from softmap.ops.heads import (
    add_scores_gradient,
    add_values_gradient,
    combine,
    scores,
    weights_gradient,
)
from softmap.ops.masks import Masks

TILE_BYTES = 1 << 20  # of one map tensor of a tile
MIN_ROWS = 8


class Eager:
    """Computes and differentiates a band with torch, one operation after another."""

    def __init__(self, call: Call, rows: int, *, plain: bool = False) -> None:
        """Prepare for the bands of a call.

        Args:
            rows: the largest number of rows of a band.
            plain: see ``chunked.run``.
        """
        _keep_memory()
        self._plain = plain
        self._kinds = call.flatten()[0]
        self._masks = Masks(call, rows) if Masks.fit(call, rows) else None

    def more(self, flat: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
        """Returns copies of keys and values with tokens innermost: bands multiply by their
        transpose.
        """
        k, v = (t.transpose(2, 3).contiguous().transpose(2, 3) for t in flat[1:3])
        return [("k", k), ("v", v)]

    def forward(self, call: Call, span: Span, parts: Sequence[Tensor]) -> Tensor:
        """Returns the band (B, H', R, d') from the call's inputs cut to it."""
        q, v, k = parts[0], parts[2], parts[-2]
        s = scores(q, k, call.heads, call.scale)
        cuts = self.tiles(call, span)
        w = None
        for tile in cuts:
            own = _rows(s, span, tile)
            m = self.weights(call, tile, own, self._parts(span, tile, parts))
            if len(cuts) == 1:
                return combine(m, v, call.heads)
            if w is None:
                # Over the scores where that can be: a tile's rows are read by it alone.
                over = m.shape[1] == s.shape[1] and not call.halo
                w = s if over else s.new_empty(*m.shape[:2], span.stop - span.start, m.shape[3])
            _rows(w, span, tile, halo=False).copy_(m)
        assert w is not None
        return combine(w, v, call.heads)

    def add_gradients(
        self,
        call: Call,
        span: Span,
        parts: Sequence[Tensor],
        sums: Sequence[Tensor | None],
        grad: Tensor,
    ) -> None:
        """Recompute the band and add the gradients of its parts to ``sums``, where these exist."""
        q, k, _, turned_k, turned_v = (*parts[:3], *parts[-2:])
        s = scores(q, turned_k, call.heads, call.scale)
        dw = weights_gradient(grad, turned_v, call.heads)
        w, ds = self._differentiated(call, span, parts, sums, s, dw)
        if sums[2] is not None:
            add_values_gradient(sums[2], w, grad, call.heads)
        add_scores_gradient(sums[0], sums[1], ds.to(q.dtype), q, k, call.heads, call.scale)

    def _differentiated(
        self,
        call: Call,
        span: Span,
        parts: Sequence[Tensor],
        sums: Sequence[Tensor | None],
        s: Tensor,
        dw: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the band's weights and the gradient of its scores, overwriting ``dw`` and
        ``s``; the gradients of the edits' tensors are added to ``sums``.
        """
        cuts = self.tiles(call, span)
        ds = torch.zeros_like(s) if call.halo else s
        wanted = [n for n in range(3, len(sums)) if sums[n] is not None]
        for tile in cuts:
            own, above = _rows(s, span, tile), _rows(dw, span, tile, halo=False)
            inputs, into = self._parts(span, tile, parts), self._parts(span, tile, sums)
            m, d_own, *rest = self.gradients(call, tile, own, above, inputs, wanted)
            if d_own is None:  # an edit that makes its map of its own tensors alone
                d_own = torch.zeros_like(own)
            for n, g in zip(wanted, rest, strict=True):
                if g is not None:
                    into[n].add_(g)
            if len(cuts) == 1:
                return m.to(dw.dtype), d_own.to(s.dtype)
            above.copy_(m)
            if call.halo:
                _rows(ds, span, tile).add_(d_own)
            else:
                own.copy_(d_own)
        return dw, ds

    def tiles(self, call: Call, span: Span) -> list[Span]:
        """Returns the band's rows in parts of nearly equal size, over the same keys."""
        row_bytes = call.row_bytes(span.last - span.first)
        most = TILE_BYTES // (row_bytes * max(1, span.end - span.begin))
        rows = span.stop - span.start
        if call.q.device.type != "cpu":  # one kernel after another from the device's own memory
            return [span]
        parts = -(-rows // max(MIN_ROWS, most))
        return rows_of(call, span, -(-rows // parts))

    def weights(self, call: Call, tile: Span, s: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Returns the edited weights of a tile from its scores, which may be overwritten."""
        return self._edited(call, tile, s, parts, self._hide(call, s, tile))

    def gradients(
        self,
        call: Call,
        tile: Span,
        s: Tensor,
        dw: Tensor,
        parts: Sequence[Tensor],
        wanted: Sequence[int],
    ) -> Sequence[Any]:
        """Returns the weights, then the gradients of the scores and of the ``wanted`` parts
        (None where unused), given ``dw``, that of the weights.
        """
        hidden = self._hide(call, s, tile)
        leaf, leaves = s.detach().requires_grad_(), list(parts)
        for n in wanted:
            leaves[n] = parts[n].detach().requires_grad_()
        with torch.enable_grad():
            m = self._edited(call, tile, leaf, leaves, hidden)
        inputs = [leaf, *(leaves[n] for n in wanted)]
        if not m.requires_grad:
            return m, *(None for _ in inputs)
        return m.detach(), *torch.autograd.grad(m, inputs, dw.to(m.dtype), allow_unused=True)

    def _edited(
        self, call: Call, tile: Span, s: Tensor, parts: Sequence[Tensor], hidden: bool
    ) -> Tensor:
        region, tensors = self._place(call, tile), call.grouped(parts)
        add = not self._plain
        return edited_map(call, tensors, s, region, tile.lead, hidden=hidden, add=add)

    def _hide(self, call: Call, s: Tensor, tile: Span) -> bool:
        return not self._plain and _hide(call, s, self._place(call, tile))

    def _parts(self, span: Span, tile: Span, parts: Sequence[Any]) -> Sequence[Any]:
        """Returns the band's parts cut to a tile."""
        if tile == span:
            return parts
        return [
            t if t is None or kind != "query" else _rows(t, span, tile, axis=1)
            for t, kind in zip(parts, self._kinds, strict=False)
        ]

    def _place(self, call: Call, tile: Span) -> Region:
        if self._masks is None:
            return Region(partial(band_of, call, tile))
        masks = self._masks
        return Region(partial(masks.band, tile), masks.hidden(tile), masks.seen(tile))


@cache
def _keep_memory() -> None:
    """Make glibc reuse the memory of temporaries up to this size, which it learns when one is
    freed.

    It would otherwise return the memory and get it again, page by page: a fifth of the time of an
    edit with large temporaries. The memory is never written, so it costs nothing.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)


def rows_of(call: Call, span: Span, step: int) -> list[Span]:
    """Returns the span in parts of ``step`` rows."""
    return [
        span._replace(start=i, stop=min(i + step, span.stop), lead=min(call.halo, i))
        for i in range(span.start, span.stop, step)
    ]


def _rows(t: Tensor, span: Span, tile: Span, *, halo: bool = True, axis: int = 2) -> Tensor:
    """Returns a tile's rows of what the band has for each row, with or without those of the
    halo.
    """
    lead, above = (tile.lead, span.lead) if halo else (0, 0)
    begin, n = tile.start - lead - span.start + above, tile.stop - tile.start + lead
    return t if n == t.shape[axis] else t.narrow(axis, begin, n)


def _hide(call: Call, s: Tensor, region: Region) -> bool:
    """Mask scores that no edit will see, in place and only if a cell is hidden; returns whether
    it did.
    """
    if call.halo or s.dtype != compute_dtype(s) or any(e.stage == "scores" for e in call.edits):
        return False
    hidden = region.hidden(s.dtype)
    s[..., region.seen :].add_(hidden[..., region.seen :])
    return True
