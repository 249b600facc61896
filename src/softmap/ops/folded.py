"""The backend ``folded``: closed forms on ``scaled_dot_product_attention``, without any map.

Diff is two attentions subtracted, Shaped attention is attention plus the token's own value minus a
running mean, and a temperature scales the query. Such chains cost as much as plain attention.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from softmap.maps import Edit, compute_dtype
from softmap.ops import flash
from softmap.ops.call import Call, Span, applied, bag, band_of
from softmap.ops.heads import per_map

# Rows per call when a mask has to be given: memory stays linear in T.
MASKED_ROWS = 512


def refuses(call: Call) -> str | None:
    """Returns why the chain has no closed form, or None."""
    for edit in call.edits:
        if not has_form(edit):
            return f"{type(edit).__name__} {_DOES[edit.stage]} and has no closed form"
    return flash.refuses(call.q) if needs_lse(call) else None


_DOES = {
    "scores": "edits the scores",
    "normaliser": "stands in place of the softmax",
    "weights": "edits the weights",
}


def has_form(edit: Edit) -> bool:
    """Whether the edit has a closed form."""
    form = {"scores": "fold_query", "normaliser": "fold_softmax"}.get(edit.stage)
    if form is not None:
        return getattr(type(edit), form) is not getattr(Edit, form)
    return edit.stage == "output" or edit.folds_output


def needs_lse(call: Call) -> bool:
    """Whether the log-sum-exp of the rows is needed beside their output."""
    return call.needs_lse or bool(call.chain("normaliser"))


def run(call: Call) -> Tensor:
    """Returns attention (B, H', T, d') by SDPA and the edits' closed forms."""
    return _run(call, needs_lse(call))[0]


def run_with_lse(call: Call) -> tuple[Tensor, Tensor | None]:
    """Returns the same, and the log-sum-exp (B, H, T) of each map's rows."""
    return _run(call, True)


def _run(call: Call, wants_lse: bool) -> tuple[Tensor, Tensor | None]:
    q = scaled_query(call, call.chain("scores"))
    o, lse = _plain(call, q, wants_lse)
    return finish(call, o, lse), lse


def plain(call: Call) -> Tensor:
    """Returns the attention of every map (B, H, T, d'), with edited queries and before the
    edits of the weights.
    """
    return _plain(call, scaled_query(call, call.chain("scores")), False)[0]


def scaled_query(call: Call, edits: list[tuple[int, Edit]]) -> Tensor:
    """Returns q after the closed forms of these scores edits, each with its index in the call."""
    q, rows = call.q, call.rows_for(call.heads.maps)
    for n, edit in edits:
        q = applied(edit, edit.fold_query, q, rows, bag(call.tensors[n]))
    return q.to(call.q.dtype)


def finish(call: Call, o: Tensor, lse: Tensor | None = None) -> Tensor:
    """Returns the plain output (B, H, T, d') of each map after the closed forms of normaliser
    and weights edits; ``lse`` (B, H, T) is the log-sum-exp of its rows.
    """
    normaliser, edits = call.chain("normaliser"), call.chain("weights")
    if not normaliser and not edits:
        return o
    o = o.to(compute_dtype(o))
    for n, edit in normaliser:
        t = bag(call.tensors[n])
        o = o * edit.fold_softmax(call.rows_for(o.shape[1], lse), t)[..., None].to(o.dtype)
    mean = _mean(call, o.dtype) if any(e.needs_mean for _, e in edits) else None
    for n, edit in edits:
        m = None if mean is None else per_map(mean, o.shape[1])
        rows = call.rows_for(o.shape[1], lse, m)
        o = applied(edit, edit.fold_output, o, rows, bag(call.tensors[n]))
    return o.to(call.v.dtype)


def _plain(call: Call, q: Tensor, wants_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Returns plain attention of every map (B, H, T, d'), and the log-sum-exp of its rows (B,
    H, T).
    """
    heads = call.heads
    q = q if heads.by_key is None else q[:, heads.by_key]
    width = max(q.shape[-1], call.v.shape[-1])
    width = flash.width(width) if wants_lse else width
    k, v = call.k, call.v
    # A GPU's kernel (cuDNN's) takes values of another width, and longer queries would cost.
    if wants_lse or not q.is_cuda:
        q, k, v = (_widened(t, width) for t in (q, k, v))
    v = per_map(v, heads.keys)
    o, lse = _attend(call, q, k, v, wants_lse)
    o = o[..., : call.v.shape[-1]]
    if heads.from_key is None:
        return o, lse
    return o[:, heads.from_key], None if lse is None else lse[:, heads.from_key]


def _widened(t: Tensor, width: int) -> Tensor:
    """Returns queries, keys and values padded with zeros to one width, as a CPU's fast kernel
    needs.
    """
    missing = width - t.shape[-1]
    return F.pad(t, (0, missing)) if missing else t  # F.pad by nothing is a copy


def _attend(
    call: Call, q: Tensor, k: Tensor, v: Tensor, wants_lse: bool
) -> tuple[Tensor, Tensor | None]:
    plain = call.valid is None and call.window is None and call.starts is None
    form = partial(flash.attend if wants_lse else _sdpa, scale=call.scale)
    if plain and not call.causal:
        return form(q, k, v)
    # In this order, and with constants: one trace then holds for any length.
    if plain and call.queries == call.keys:
        return form(q, k, v, is_causal=True)
    if plain and call.queries == 1:
        return form(q, k, v)
    parts = []
    for span in _spans(call):
        keys = slice(span.first, span.last)
        mask = _bias(call, span, q.dtype)
        own = q[:, :, span.start : span.stop]
        parts.append(form(own, k[:, :, keys], v[:, :, keys], attn_mask=mask))
    o = torch.cat([o for o, _ in parts], 2)
    return o, torch.cat([lse for _, lse in parts if lse is not None], 2) if wants_lse else None


def _sdpa(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> tuple[Tensor, None]:
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=gqa, **options), None


def _spans(call: Call) -> list[Span]:
    """Returns bands of ``MASKED_ROWS``; for ``torch.export``, which must not count them, a
    single one.
    """
    return call.spans(call.queries if torch.compiler.is_exporting() else MASKED_ROWS)


def _bias(call: Call, span: Span, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask of a band. A row that sees nothing gets no -inf: its output
    will be zero, and a NaN there would spread through the gradients.
    """
    visible = band_of(call, span._replace(lead=0)).visible
    open_rows = ~visible.any(-1, keepdim=True)
    bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return bias.masked_fill(~(visible | open_rows), float("-inf"))


def _mean(call: Call, dtype: torch.dtype) -> Tensor:
    """Returns the mean (B, G', T, d') of the values that each row sees."""
    unbroken = call.window is None and call.starts is None and call.causal
    if unbroken and (call.queries == call.keys or call.running is not None):
        return _running_mean(call, call.own_values.to(dtype))
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
