"""The backend ``chunked``: bands of query rows, recomputed in the backward pass, on any device.

Memory is linear in T. ``tiles`` computes one band.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmap.maps import compute_dtype, first_order
from softmap.ops import memory, tiles
from softmap.ops.call import Call, Span, cut_batch, cut_tokens, exact
from softmap.ops.tiles import Eager

# A band's map may leave a core's cache, a tile's should not: benchmarks/bands.py.
BAND_BYTES = 1 << 23
MIN_ROWS, MAX_ROWS = 16, 64
SHARED_ROWS = 8


def refuses(call: Call) -> str | None:
    """Returns None: it never refuses."""
    return None


def bands(call: Call) -> list[Span]:
    """Returns bands of at most ``MAX_ROWS`` rows, of as many sequences as fit into a tile of
    that many rows.

    If edits have tensors of the layer alone, tiles of ``SHARED_ROWS`` rows set the number of
    sequences, so that what depends on positions alone (a bias) is computed once for all sequences
    of a tile.
    """
    row_bytes = call.row_bytes(call.most_keys(MAX_ROWS))
    rows = max(MIN_ROWS, min(MAX_ROWS, BAND_BYTES // row_bytes, max(1, call.queries)))
    tokens = any(t.query or t.key for t in call.tensors)
    fewest = rows if tokens else min(rows, SHARED_ROWS)
    return call.spans(rows, max(1, tiles.TILE_BYTES // (row_bytes * fewest)))


def map_bytes(call: Call) -> int:
    """Returns the bytes of the largest map tensor that a band makes."""
    return memory.map_bytes(call, bands(call))


def run(call: Call, *, plain: bool = False) -> Tensor:
    """Returns attention (B, H', T, d') band by band, exact, with every gradient of the
    reference.

    Under ``torch.compile`` it breaks the graph, since a compiled loop over bands would hold for one
    length alone.

    Args:
        plain: whether hidden cells may hold anything, even NaN, as the reference allows.
    """
    # Asked here, since to mark the function would import the compiler at the first eager call.
    return (_uncompiled if torch.compiler.is_compiling() else _run)(call, plain)


def _run(call: Call, plain: bool) -> Tensor:
    spans = bands(call)
    return evaluate(call, spans, Eager(call, max(s.stop - s.start for s in spans), plain=plain))


_uncompiled = torch._disable_dynamo(_run)


def evaluate(call: Call, spans: list[Span], way: Eager) -> Tensor:
    """Returns the output (B, H', T, d') of all bands in order, computed and differentiated in
    this ``way``.
    """
    kinds, flat = call.flatten()
    if torch.is_grad_enabled() and any(t.requires_grad for t in flat):
        return _Chunked.apply(call, kinds, spans, way, *flat)  # type: ignore[no-any-return]
    return _forward(call, kinds, spans, way, flat)


def _forward(call: Call, kinds: list[str], spans: list[Span], way: Eager, flat: Any) -> Tensor:
    out = None
    parts = _Parts(*_arranged(kinds, flat, way))
    for span in spans:
        part = way.forward(call, span, parts.of(span))
        if out is None:
            out = part.new_empty(call.batch, part.shape[1], call.queries, part.shape[3])
        _rows(out, span).copy_(part)
    assert out is not None
    return out


class _Chunked(torch.autograd.Function):
    """Saves only its inputs: no map outlives its band in either direction."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, kinds: list[str], spans: list[Span], way: Eager, *flat: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*flat)
        # Shapes without storage: the call must not keep alive what activation checkpointing frees.
        hollow = call.unflatten([t.new_empty(()).expand(t.shape) for t in flat])
        ctx.call, ctx.kinds, ctx.spans, ctx.way = hollow, kinds, spans, way
        ctx.set_materialize_grads(False)
        return _forward(call, kinds, spans, way, flat)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        kinds, needs = ctx.kinds, ctx.needs_input_grad[4:]
        if grad is None:  # ``derivatives`` has taken another way
            return (None,) * (4 + len(needs))
        flat = ctx.saved_tensors
        more_kinds, more = _arranged(kinds, flat, ctx.way)
        # Bands add up in float32, so half-precision inputs lose nothing to the number of bands.
        sums = [
            torch.zeros_like(t, dtype=compute_dtype(t)) if n else None
            for t, n in zip(more, needs, strict=False)
        ]
        parts, to = _Parts(more_kinds, more), _Parts(kinds, sums)
        # As in the forward pass, also where backward() is called under autocast.
        with exact(grad.device):
            for span in ctx.spans:
                ctx.way.add_gradients(
                    ctx.call, span, parts.of(span), to.of(span), _rows(grad, span)
                )
        done = [None if s is None else s.to(t.dtype) for s, t in zip(sums, flat, strict=True)]
        return (None, None, None, None, *done)


class _Parts:
    """Inputs cut to bands. Each sequence is cut out once, since bands are many."""

    def __init__(self, kinds: list[str], flat: Sequence[Tensor | None]) -> None:
        self._kinds, self._flat = kinds, flat
        self._cut: dict[tuple[int, int], list[Tensor | None]] = {}

    def of(self, span: Span) -> list[Any]:
        if (span.begin, span.end) not in self._cut:
            self._cut[span.begin, span.end] = [
                None if t is None else cut_batch(t, kind, span)
                for t, kind in zip(self._flat, self._kinds, strict=True)
            ]
        return [
            None if t is None else cut_tokens(t, kind, span)
            for t, kind in zip(self._cut[span.begin, span.end], self._kinds, strict=True)
        ]


def _arranged(
    kinds: list[str], flat: Sequence[Tensor], way: Eager
) -> tuple[list[str], list[Tensor]]:
    """Returns the inputs as bands read them: with what the ``way`` adds, and the keys of
    per-key tensors innermost in memory, as in the maps. With heads innermost, as edits return
    them, a product with a map would not vectorise.
    """
    turned = [
        t.movedim(1, -1).contiguous().movedim(-1, 1) if kind == "key" else t
        for kind, t in zip(kinds, flat, strict=True)
    ]
    more = way.more(flat)
    return [*kinds, *(kind for kind, _ in more)], [*turned, *(t for _, t in more)]


def _rows(out: Tensor, span: Span) -> Tensor:
    return out[span.begin : span.end, :, span.start : span.stop]
