"""Closed forms on ``scaled_dot_product_attention``: for edits that need no map at all.

DIFF is two attentions subtracted, Shaped attention is attention plus the token's own value minus a
running mean, a temperature is a scaled query. Such chains run at the price of plain attention.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softmap.maps import Edit, chain, compute_dtype
from softmap.ops.call import Call, Span, applied, bag, band_of
from softmap.ops.heads import per_map

# Rows per call when a mask has to be given: memory stays linear in T.
MASKED_ROWS = 512


def refuses(call: Call) -> str | None:
    """Why the chain has no closed form, or None."""
    for edit in call.edits:
        name = type(edit).__name__
        if edit.stage == "scores" and type(edit).fold_query is Edit.fold_query:
            return f"{name} edits the scores and has no closed form"
        if edit.stage == "weights" and not edit.folds_output:
            return f"{name} edits the weights and has no closed form"
    return None


def run(call: Call) -> Tensor:
    """Attention (B, H', T, d') by SDPA and the edits' closed forms."""
    return finish(call, plain(call))


def finish(call: Call, o: Tensor) -> Tensor:
    """The weights edits' closed forms on the plain output (B, H, T, d') of each map."""
    edits = chain(call.edits, "weights")
    if not edits:
        return o
    o = o.to(compute_dtype(o))
    own = call.v[:, :, call.offset :].to(o.dtype) if call.own_keys else None
    mean = _mean(call, o.dtype) if any(e.needs_mean for _, e in edits) else None
    for n, edit in edits:
        v, m = (None if t is None else per_map(t, o.shape[1]) for t in (own, mean))
        form = partial(_fold_output, edit, v, m)
        o = applied(edit, form, o, None, bag(call.tensors[n]))
    return o.to(call.v.dtype)


def _fold_query(edit: Edit, q: Tensor, band: None, t: dict[str, Tensor]) -> Any:
    return edit.fold_query(q, t)


def _fold_output(
    edit: Edit, v: Tensor | None, mean: Tensor | None, o: Tensor, band: None, t: dict[str, Tensor]
) -> Tensor:
    return edit.fold_output(o, v, mean, t)  # type: ignore[arg-type]  # v: see Edit.fold_output


def plain(call: Call) -> Tensor:
    """Attention of every map (B, H, T, d') by SDPA, the queries edited, no weights edit applied."""
    q, heads = call.q, call.heads
    for n, edit in chain(call.edits, "scores"):
        q = applied(edit, partial(_fold_query, edit), q, None, bag(call.tensors[n]))
    q = q.to(call.q.dtype)
    q = q if heads.by_key is None else q[:, heads.by_key]
    width = max(q.shape[-1], call.v.shape[-1])
    q, k, v = (_widened(t, width) for t in (q, call.k, call.v))
    v = per_map(v, heads.keys)
    o = _attend(call, q, k, v)[..., : call.v.shape[-1]]
    return o if heads.from_key is None else o[:, heads.from_key]


def _widened(t: Tensor, width: int) -> Tensor:
    """A CPU's fast kernel wants one width for queries, keys and values: zeros change nothing. A
    GPU's (cuDNN's) take two, and longer queries would cost."""
    missing = 0 if t.is_cuda else width - t.shape[-1]
    return F.pad(t, (0, missing)) if missing else t  # F.pad by nothing is a copy


def _attend(call: Call, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    gqa = q.shape[1] != k.shape[1]
    plain = call.valid is None and call.window is None and call.starts is None
    form = partial(F.scaled_dot_product_attention, scale=call.scale, enable_gqa=gqa)
    if plain and not call.causal:
        return form(q, k, v)
    # In this order, and each with a constant: then it holds for any length, traced once.
    if plain and call.queries == call.keys:
        return form(q, k, v, is_causal=True)
    if plain and call.queries == 1:
        return form(q, k, v)
    parts = []
    for span in _spans(call):
        keys = slice(span.first, span.last)
        visible = band_of(call, span._replace(lead=0)).visible
        open_rows = ~visible.any(-1, keepdim=True)
        mask = _bias(visible | open_rows, q.dtype)
        own = q[:, :, span.start : span.stop]
        o = form(own, k[:, :, keys], v[:, :, keys], attn_mask=mask)
        parts.append(o if call.valid is None else o.masked_fill(open_rows, 0))
    return torch.cat(parts, 2)


def _spans(call: Call) -> list[Span]:
    """Bands of ``MASKED_ROWS``; one of all rows for ``torch.export``, which must not count them."""
    return call.spans(call.queries if torch.compiler.is_exporting() else MASKED_ROWS)


def _bias(shown: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask. A row that sees nothing is shown all, and its result zero: -inf alone would
    give NaN, which would spread through the gradients."""
    bias = torch.zeros(shown.shape, dtype=dtype, device=shown.device)
    return bias.masked_fill(~shown, float("-inf"))


def _mean(call: Call, dtype: torch.dtype) -> Tensor:
    """(B, G', T, d') mean of the values that each row sees."""
    unbroken = call.window is None and call.starts is None and call.causal
    if unbroken and (call.queries == call.keys or call.running is not None):
        return _running_mean(call, call.v[:, :, call.offset :].to(dtype))
    parts = []
    for span in _spans(call):
        visible = band_of(call, span._replace(lead=0)).visible.to(dtype)
        share = visible / visible.sum(-1, keepdim=True).clamp(min=1)
        parts.append(share @ call.v[:, :, span.first : span.last].to(dtype))
    return torch.cat(parts, 2)


def _running_mean(call: Call, own: Tensor) -> Tensor:
    valid = own.new_ones(own.shape[0], own.shape[2])
    if call.valid is not None:
        valid = call.valid[:, call.offset :].to(own.dtype)
    total = (own * valid[:, None, :, None]).cumsum(2)
    count = valid.cumsum(1)
    if call.running is not None:
        total = total + call.running[0].to(own.dtype)[:, :, None]
        count = count + call.running[1].to(own.dtype)
    return total / count.clamp(min=1)[:, None, :, None]
