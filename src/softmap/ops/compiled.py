"""The backend ``compiled``: the bands of ``chunked``, compiled, for any edit.

The first call takes tens of seconds. A band has one of few shapes: its rows are always R, its key
columns are rounded up to one of four lengths, and columns beyond its last key are masked like later
keys. So a model compiles at most four forward functions and four that recompute a band and return
its gradients. Windows, documents and the band's position are inputs, and layers with equal edits
share what is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softmap.maps import Band, make_band
from softmap.ops import chunked
from softmap.ops.call import Call, Region, Span, edited_map, of_batch, widened
from softmap.ops.graphs import compiled, meta, missing_compiler, nature
from softmap.ops.tiles import Eager, rows_of

TILE_BYTES = 1 << 20  # of one map tensor of a tile, which is compiled
BAND_BYTES = 1 << 23  # of a band, whose products are not
MIN_ROWS, MAX_ROWS = 8, 64
LENGTHS = 4  # at most so many key lengths
MIN_STEP = 16

_ROW_KINDS, _KEY_KINDS = ("q", "query"), ("k", "v", "key")


def skipped(call: Call) -> str | None:
    """Returns why ``auto`` always passes it over."""
    return "it compiles for tens of seconds before its first result; name it to have it"


@torch._disable_dynamo
def refuses(call: Call) -> str | None:
    """Returns why nothing can be compiled here, or None."""
    return missing_compiler(call.q.device.type)


@torch._disable_dynamo  # a graph break under torch.compile; compiler.disable imports dynamo now
def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') by compiled bands, exact, with every gradient of the
    reference.
    """
    if not call.batch:
        return chunked.run(call)
    spans = bands(call)
    laid = _laid_out(call, spans)
    out = chunked.evaluate(laid, spans, Compiled(call, laid))
    return out[:, :, : call.queries]


def bands(call: Call) -> list[Span]:
    """Returns bands of R rows, the last one extending beyond the call's end, over one of
    ``LENGTHS`` key lengths.
    """
    rows, sequences = _size(call)
    whole = [call.span(i, min(i + rows, call.queries)) for i in range(0, call.queries, rows)]
    step = max(MIN_STEP, _power(-(-max(s.last - s.first for s in whole) // LENGTHS)))
    return [
        s._replace(
            stop=s.start + rows, last=s.first + -(-(s.last - s.first) // step) * step,
            begin=b, end=b + sequences,
        )
        for b in range(0, call.batch, sequences)
        for s in whole
    ]  # fmt: skip


def _size(call: Call) -> tuple[int, int]:
    """Returns the rows of a band, a power of two, and its sequences, a divisor of the batch."""
    row_bytes = call.row_bytes(call.most_keys(MAX_ROWS))
    rows = max(MIN_ROWS, min(MAX_ROWS, _power(BAND_BYTES // row_bytes + 1) // 2))
    rows = min(rows, _power(call.queries))
    fitting = max(1, BAND_BYTES // (row_bytes * rows))
    return rows, max(n for n in range(1, call.batch + 1) if call.batch % n == 0 and n <= fitting)


def _power(n: int) -> int:
    """Returns the smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def _laid_out(call: Call, spans: list[Span]) -> Call:
    """Returns the call with zeros after its last row and key, as far as the bands extend."""
    T, S = max(s.stop for s in spans), max(s.last for s in spans)
    kinds, flat = call.flatten()
    sizes = dict.fromkeys(_ROW_KINDS, T) | dict.fromkeys(_KEY_KINDS, S)
    laid = call.unflatten(
        [_arranged(t, kind, sizes.get(kind)) for kind, t in zip(kinds, flat, strict=True)]
    )
    valid = call.valid
    if valid is None and not call.causal:  # what is beyond the last key is hidden by this alone
        valid = torch.ones(call.batch, call.keys, dtype=torch.bool, device=call.q.device)
    cols, valid = widened(call.cols, valid, S - call.keys)
    rows = widened(call.rows, None, T - call.queries)[0].int()
    starts, ends = (_of_rows(at, call, T) for at in (call.starts, call.ends))
    return replace(laid, rows=rows, cols=cols.int(), valid=valid, starts=starts, ends=ends)


def _of_rows(at: Tensor | None, call: Call, rows: int) -> Tensor | None:
    """Returns the indices (b, S) of a call's own rows, repeated for the rows after them: (b,
    ``rows``).
    """
    if at is None:
        return None
    at = at[:, call.offset :].int()
    return torch.cat([at, at[:, -1:].expand(-1, rows - call.queries)], 1)


def _arranged(t: Tensor, kind: str, tokens: int | None = None) -> Tensor:
    """Returns ``t``, with zeros up to ``tokens``, in the memory layout that is compiled for its
    kind.

    Tensors of tokens have these innermost, as the maps do: with heads innermost, as edits return
    them, Inductor would vectorise over the heads and transpose every map.
    """
    if kind not in ("query", "key"):
        return _longer(t, tokens, 2).contiguous()
    return _longer(t, tokens, 1).movedim(1, -1).contiguous().movedim(-1, 1)


def _longer(t: Tensor, tokens: int | None, axis: int) -> Tensor:
    if tokens is None or tokens == t.shape[axis]:
        return t
    shape = list(t.shape)
    shape[axis] = tokens - t.shape[axis]
    return torch.cat([t, t.new_zeros(shape)], axis)


class Compiled(Eager):
    """Bands of a padded call, with compiled functions between their products."""

    def __init__(self, call: Call, laid: Call) -> None:
        self._kinds, flat = laid.flatten()
        names = [[tuple(group) for group in t] for t in call.tensors]
        self._offset = call.offset
        self._window = call.window or call.keys + call.queries + MAX_ROWS
        grad = torch.is_grad_enabled() and any(t.requires_grad for t in flat)
        wanted = [n for n, t in enumerate(flat) if n > 2 and t.requires_grad]
        self._wanted = wanted if grad else None
        edits = tuple(
            nature(e, t.layer.values()) for e, t in zip(call.edits, call.tensors, strict=True)
        )
        self._key = (edits, nature(names), call.heads, call.causal, torch.get_num_threads())
        self._what = " + ".join(type(e).__name__ for e in call.edits) or "plain attention"

    def tiles(self, call: Call, span: Span) -> list[Span]:
        """Returns tiles of a power of two of rows, one size for each length of the keys."""
        row_bytes = call.row_bytes(span.last - span.first) * (span.end - span.begin)
        rows = max(MIN_ROWS, _power(TILE_BYTES // row_bytes + 1) // 2)
        return rows_of(call, span, min(rows, span.stop - span.start))

    def weights(self, call: Call, tile: Span, s: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Returns the edited weights of a tile from its scores ``s``, outside of autograd."""
        inputs = self._inputs(call, tile, [s, *parts[3 : len(self._kinds)]])
        with torch.no_grad():
            (m,) = self._function(call, tile, inputs, None)(*inputs)
            assert m is not None
            if self._wanted is not None:  # here, since autograd's threads must not compile
                dw = m.new_empty(m.shape, dtype=call.q.dtype)
                inputs = self._inputs(call, tile, [s, dw, *parts[3 : len(self._kinds)]])
                self._function(call, tile, inputs, tuple(self._wanted))
        return m

    def gradients(
        self,
        call: Call,
        tile: Span,
        s: Tensor,
        dw: Tensor,
        parts: Sequence[Tensor],
        wanted: Sequence[int],
    ) -> Sequence[Any]:
        """Returns the gradients of a tile's scores and of the ``wanted`` tensors, given ``dw``."""
        inputs = self._inputs(call, tile, [s, dw.contiguous(), *parts[3 : len(self._kinds)]])
        with torch.no_grad():
            return self._function(call, tile, inputs, tuple(wanted))(*inputs)

    def _inputs(self, call: Call, tile: Span, tensors: list[Tensor]) -> list[Tensor]:
        """Returns where the tile is, its scores and what belongs to them, and the edits'
        tensors.
        """
        rows = slice(tile.start - tile.lead, tile.stop)
        keys = slice(tile.first, tile.last)
        place = self._offset + rows.start - tile.first
        at = torch.tensor([place, self._window], dtype=torch.int32, device=call.q.device)
        where = [at, of_batch(call.rows, tile)[:, rows], of_batch(call.cols, tile)[:, keys]]
        if call.valid is not None:
            where.append(of_batch(call.valid, tile)[:, keys])
        where += [
            of_batch(at, tile)[:, rows] - tile.first
            for at in (call.starts, call.ends)
            if at is not None
        ]
        return [*(t.contiguous() for t in where), *tensors]

    def _function(
        self, call: Call, tile: Span, inputs: list[Tensor], wanted: tuple[int, ...] | None
    ) -> Callable[..., Sequence[Tensor | None]]:
        masks = tuple(t is not None for t in (call.valid, call.starts, call.ends))
        key: Hashable = (self._key, tile.lead, masks, wanted, tuple(map(meta, inputs)))
        return compiled(key, _tile(call, tile.lead, masks, wanted), inputs, self._what)


def _tile(
    call: Call, lead: int, masks: tuple[bool, ...], wanted: tuple[int, ...] | None
) -> Callable[..., Sequence[Tensor | None]]:
    """Returns a function of [`Compiled._inputs`][] that computes the tile's weights or, with
    ``wanted``, the gradients of the scores and of these inputs of the call.
    """

    def run(at: Tensor, rows: Tensor, cols: Tensor, *rest: Tensor) -> Sequence[Tensor | None]:
        left = list(rest)
        valid, starts, ends = (left.pop(0) if given else None for given in masks)
        region = Region(partial(_band, at, rows, cols, valid, starts, ends, call.causal))
        s = left.pop(0)
        if wanted is None:
            return [edited_map(call, call.grouped([s, s, s, *left]), s, region, lead)]
        dw = left.pop(0)
        leaves = [s.detach().requires_grad_()]
        leaves += [t.detach().requires_grad_(n in wanted) for n, t in enumerate(left, 3)]
        with torch.enable_grad():
            m = edited_map(call, call.grouped([s, s, *leaves]), leaves[0], region, lead)
        inputs = [leaves[0], *(leaves[n - 2] for n in wanted)]
        if not m.requires_grad:
            return [m, *(None for _ in inputs)]
        grads = torch.autograd.grad(m, inputs, dw.to(m.dtype), allow_unused=True)
        return [m.detach(), *grads]

    return run


def _band(
    at: Tensor,
    rows: Tensor,
    cols: Tensor,
    valid: Tensor | None,
    starts: Tensor | None,
    ends: Tensor | None,
    causal: bool,
    pad: int,
) -> Band:
    wide, mask = widened(cols, valid, pad)
    row_index = torch.arange(rows.shape[1], dtype=at.dtype, device=at.device) + at[0]
    col_index = torch.arange(wide.shape[1], dtype=at.dtype, device=at.device)
    window: Any = at[1]
    return make_band(rows, wide, row_index, col_index, window, mask, starts, ends, causal=causal)
