"""Masks by array index, computed once for all bands of a call; each band gets a view."""

from __future__ import annotations

import torch
from torch import Tensor

from softmap.maps import Band, compute_dtype, near
from softmap.ops.call import Call, Span, widened

MOST_CELLS = 1 << 21


class Masks:
    """The masks of a call without padding and documents, where a cell's mask depends on i - j
    alone.

    Row r of a strip holds the gap r - x for x = -K .. rows (up to the last key where later keys are
    seen): a band that begins at index i sees its columns at x = j - i.
    """

    def __init__(self, call: Call, rows: int) -> None:
        # Not the call: it would keep alive what activation checkpointing frees.
        self._rows, self._cols, self._whole = call.rows, call.cols, call.window is None
        self._before, self._offset = call.offset + call.queries, call.offset
        self._causal, device = call.causal, call.q.device
        row = torch.arange(rows + call.halo, device=device)[:, None]
        after = rows + call.halo + call.pad if call.causal else call.keys
        self._gap = row - torch.arange(-self._before, after, device=device)
        self._visible = near(self._gap, call.window, call.causal)
        dtype = compute_dtype(call.q)
        self._hidden = torch.zeros(self._gap.shape, dtype=dtype, device=device)
        self._hidden.masked_fill_(~self._visible, -torch.inf)

    @staticmethod
    def fit(call: Call, rows: int) -> bool:
        """Whether the masks are the same for all sequences, and worth keeping."""
        by_place = call.valid is None and call.starts is None
        same = len(call.rows) == len(call.cols) == 1
        wide = call.offset + call.queries + (rows if call.causal else call.keys)
        return by_place and same and (rows + call.halo) * wide <= MOST_CELLS

    def band(self, span: Span, pad: int = 0) -> Band:
        """Returns the band, as ``call.band_of`` does."""
        rows = self._rows[:, span.start - span.lead : span.stop]
        cols = widened(self._cols[:, span.first : span.last], None, pad)[0]
        gap, visible = self._cut(self._gap, span, pad), self._cut(self._visible, span, pad)
        return Band(rows, cols, gap, visible, self._whole, self._causal)

    def hidden(self, span: Span) -> Tensor:
        """Returns the additive mask, as ``Region.hidden`` does."""
        return self._cut(self._hidden, span, 0)

    def seen(self, span: Span) -> int:
        """Returns how many of its first columns every row of the band sees."""
        if not self._whole:
            return 0
        last = self._offset + span.start - span.lead + 1 if self._causal else span.last
        return max(0, last - span.first)

    def _cut(self, strip: Tensor, span: Span, pad: int) -> Tensor:
        n = span.stop - span.start + span.lead
        begin = self._before + span.first - (self._offset + span.start - span.lead)
        return strip[None, None, :n, begin : begin + span.last - span.first + pad]
