"""Bands of query rows, recomputed in the backward pass: any device, memory linear in T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from softmap.maps import compute_dtype
from softmap.ops import memory
from softmap.ops.call import Call, Span, cut, run_span

# One map tensor of a band should stay in a core's cache between the steps of an edit, yet be large
# enough that the calls do not count: benchmarks/bands.py.
BAND_BYTES = 1 << 20
MIN_ROWS, MAX_ROWS = 32, 128


def refuses(call: Call) -> str | None:
    """It never refuses."""
    return None


def bands(call: Call) -> list[Span]:
    """Bands whose map tensors stay within ``BAND_BYTES``: 32 to 128 rows of as many sequences of
    the batch as fit. Few rows come before few sequences: their keys end sooner."""
    keys = call.keys if call.window is None else min(call.keys, call.window + MAX_ROWS)
    row_bytes = call.heads.maps * keys * compute_dtype(call.q).itemsize
    rows = max(MIN_ROWS, min(MAX_ROWS, BAND_BYTES // (row_bytes * max(1, call.batch)) // 16 * 16))
    sequences = max(1, BAND_BYTES // (row_bytes * min(rows, call.queries)))
    return call.spans(rows, sequences)


def map_bytes(call: Call) -> int:
    """Of the largest map tensor that a band makes."""
    return memory.map_bytes(call, bands(call))


def run(call: Call) -> Tensor:
    """Attention (B, H', T, d') band by band; exact, with every gradient of the reference."""
    return evaluate(call, bands(call), Eager())


class Eager:
    """How one band is computed and differentiated; ``compiled`` has its own way."""

    def forward(self, call: Call, span: Span, parts: Sequence[Tensor]) -> Tensor:
        """The band (B, H', R, d') from the call's inputs cut to it."""
        return run_span(call, span, parts)

    def backward(
        self, call: Call, span: Span, parts: Sequence[Tensor], wanted: Sequence[int], grad: Tensor
    ) -> Sequence[Tensor | None]:
        """Gradients of the ``wanted`` parts, the band computed again; None where it reads none."""
        leaves = [t.detach().requires_grad_(n in wanted) for n, t in enumerate(parts)]
        with torch.enable_grad():
            out = run_span(call, span, leaves)
        if not out.requires_grad:  # only tensors of output edits do, and those are not used here
            return [None] * len(wanted)
        return torch.autograd.grad(out, [leaves[n] for n in wanted], grad, allow_unused=True)


def evaluate(call: Call, spans: list[Span], way: Eager) -> Tensor:
    """All bands of a call in order, (B, H', T, d'), computed and differentiated in that ``way``."""
    kinds, flat = call.flatten()
    if torch.is_grad_enabled() and any(t.requires_grad for t in flat):
        return _Chunked.apply(call, kinds, spans, way, *flat)  # type: ignore[no-any-return]
    return _forward(call, kinds, spans, way, flat)


def _forward(call: Call, kinds: list[str], spans: list[Span], way: Eager, flat: Any) -> Tensor:
    out = None
    for span in spans:
        parts = [cut(t, k, span) for k, t in zip(kinds, flat, strict=True)]
        part = way.forward(call, span, parts)
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
        return _forward(call, kinds, spans, way, flat)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, needs = ctx.saved_tensors, ctx.needs_input_grad[4:]
        # Bands add up in float32, so half-precision inputs lose nothing to the number of bands.
        sums = [
            torch.zeros_like(t, dtype=compute_dtype(t)) if n else None
            for t, n in zip(flat, needs, strict=True)
        ]
        # As in the forward pass, also where backward() is called under autocast.
        with torch.autocast(grad.device.type, enabled=False):
            for span in ctx.spans:
                _add_band(ctx, span, flat, sums, _rows(grad, span))
        done = [None if s is None else s.to(t.dtype) for s, t in zip(sums, flat, strict=True)]
        return (None, None, None, None, *done)


def _rows(out: Tensor, span: Span) -> Tensor:
    return out[span.begin : span.end, :, span.start : span.stop]


def _add_band(ctx: Any, span: Span, flat: Any, sums: Any, grad: Tensor) -> None:
    """Recompute one band with gradients and add them to the sums, in place."""
    kinds = ctx.kinds
    wanted = [n for n, s in enumerate(sums) if s is not None]
    parts = [cut(t, k, span) for k, t in zip(kinds, flat, strict=True)]
    grads = ctx.way.backward(ctx.call, span, parts, wanted, grad)
    for n, g in zip(wanted, grads, strict=True):
        if g is not None:
            cut(sums[n], kinds[n], span).add_(g)
