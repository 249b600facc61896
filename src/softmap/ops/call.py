"""One attention call: its tensors, its masks, and how to cut a band out of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.maps import Band, Edit, Rows, Tensors, chain, compute_dtype, make_band
from softmap.ops.documents import can_look
from softmap.ops.heads import Heads, combine, per_map, scores
from softmap.ops.memory import is_out_of_memory


class Span(NamedTuple):
    """Query rows [start, stop) with ``lead`` halo rows above, over keys [first, last).

    Of the sequences [begin, end) of the batch.
    """

    start: int
    stop: int
    lead: int
    first: int
    last: int
    begin: int
    end: int


# How a tensor follows a band: the axis of its tokens, and whether those are queries or keys.
_AXES = {"q": (2, "row"), "k": (2, "col"), "v": (2, "col"), "query": (1, "row"), "key": (1, "col")}


@dataclass(frozen=True)
class Call:
    """What a backend is given. Where causal, the last T of the S keys belong to the T queries;
    else all keys do (T = S), or none (cross-attention).

    q (B, H, T, d), k (B, G, S, d), v (B, G', S, d'); rows (b, T), cols (b, S) token positions;
    valid (B, S) or None; running: (sum (B, G', d'), count (B, 1)) of the values *before* the
    first query, for edits that need the mean of all values, or None; starts (b, S) int64: for each
    token the place (index in the arrays) of the first token of its document, or None where a
    sequence is one document. A row at place i sees places starts[i] .. i, and where it is not
    causal those before ends[i], (b, S) the place after the last token of the document.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    edits: Sequence[Edit]
    tensors: Sequence[Tensors]
    heads: Heads
    scale: float
    window: int | None
    rows: Tensor
    cols: Tensor
    valid: Tensor | None
    running: tuple[Tensor, Tensor] | None = None
    starts: Tensor | None = None
    ends: Tensor | None = None
    causal: bool = True

    @property
    def queries(self) -> int:
        """T, the number of query tokens."""
        return self.q.shape[2]

    @property
    def keys(self) -> int:
        """S, the number of key tokens."""
        return self.k.shape[2]

    @property
    def offset(self) -> int:
        """Place of the first query among the keys."""
        return self.keys - self.queries if self.causal else 0

    @property
    def own_keys(self) -> bool:
        """Whether each query's own token is among the keys, as far as the call knows."""
        return self.causal or self.queries == self.keys

    def row_bytes(self, keys: int) -> int:
        """Of one row of all maps over so many keys."""
        return self.heads.maps * keys * compute_dtype(self.q).itemsize

    @property
    def halo(self) -> int:
        """Rows above a band that its edits read in all; a chain of halos adds up."""
        return sum(e.halo for e in self.edits)

    @property
    def pad(self) -> int:
        """Columns that scores edits read through beyond the diagonal; without one, none."""
        if not self.causal:
            return 0
        return max([0, *(e.pad for _, e in chain(self.edits, "scores"))])  # no default=: dynamo

    @property
    def batch(self) -> int:
        """B, the number of sequences."""
        return self.q.shape[0]

    @property
    def reach(self) -> tuple[Tensor, Tensor]:
        """(B, T) first and last: query t sees the keys [first, last), by place, but for padding."""
        shape, offset = (self.batch, self.queries), self.offset
        own = torch.arange(offset, offset + self.queries, device=self.q.device)[None]
        first = torch.zeros_like(own)
        last = own + 1 if self.causal else torch.full_like(own, self.keys)
        if self.window is not None:
            first = (own - self.window + 1).clamp(min=0)
            last = torch.minimum(last, own + self.window)
        if self.starts is not None:
            first = torch.maximum(first, self.starts[:, offset:])
        if self.ends is not None:
            last = torch.minimum(last, self.ends)
        return first.expand(shape), last.expand(shape)

    @property
    def count(self) -> Tensor:
        """(B, T) how many keys each query sees."""
        first, last = self.reach
        if self.valid is None:
            return last - first
        seen = torch.nn.functional.pad(self.valid.long().cumsum(1), (1, 0))
        return seen.gather(1, last) - seen.gather(1, first)

    @property
    def needs_lse(self) -> bool:
        """Whether an output edit reads the log-sum-exp of its rows."""
        return any(e.needs_lse for e in self.edits)

    def rows_for(self, maps: int, lse: Tensor | None = None, mean: Tensor | None = None) -> Rows:
        """What an edit of ``maps`` maps may read that has no map to look at."""
        return Rows(
            self.rows, lambda: self.count, lambda: per_map(self.own_values, maps), lse, mean
        )

    @property
    def own_values(self) -> Tensor:
        """(B, G', T, d') of the queries' own tokens. Raises ``ValueError`` where they have none."""
        if not self.own_keys:
            raise SoftmapError(
                "a row of cross-attention has no value of its own: expected an edit that reads it "
                'to say defined_for = "self", found "cross"'
            )
        return self.v[:, :, self.offset :]

    @cached_property
    def _earliest(self) -> list[int] | None:
        """For each place the first key that a row there sees in any sequence of the batch.

        Not asked of a GPU, which would have to wait for it."""
        if self.starts is None or self.starts.device.type != "cpu":
            return None
        return self.starts.amin(0).tolist()

    @cached_property
    def _latest(self) -> list[int] | None:
        """The same of the place after the last key."""
        if self.ends is None or self.ends.device.type != "cpu":
            return None
        return self.ends.amax(0).tolist()

    def most_keys(self, rows: int) -> int:
        """Those that the rows of a band of so many see together, at most."""
        if self.window is None:
            return self.keys
        return min(self.keys, (self.window if self.causal else 2 * self.window) + rows)

    def span(self, start: int, stop: int) -> Span:
        """The band of queries [start, stop): its halo, and the keys that any of its rows sees."""
        lead = min(self.halo, start)
        top, below = self.offset + start - lead, self.offset + stop
        first = 0 if self.window is None else max(0, top - self.window + 1)
        if self._earliest is not None:
            first = max(first, self._earliest[top])
        last = below if self.causal else self.keys
        if self.window is not None:
            last = min(last, below - 1 + self.window)
        if self._latest is not None:
            last = min(last, self._latest[below - 1])
        return Span(start, stop, lead, first, last, 0, self.batch)

    def spans(self, rows: int, sequences: int | None = None) -> list[Span]:
        """Bands of ``rows`` queries, ``sequences`` of the batch at a time (all by default)."""
        if sequences is None and self.queries <= rows:  # no loop, which would fix the length
            return [self.span(0, self.queries)]
        step = max(1, sequences or self.batch)
        return [
            self.span(i, min(i + rows, self.queries))._replace(
                begin=b, end=min(b + step, self.batch)
            )
            for i in range(0, self.queries, rows)
            for b in range(0, max(1, self.batch), step)
        ]

    # The differentiable inputs as a flat list, each with its kind, and back again.
    def flatten(self) -> tuple[list[str], list[Tensor]]:
        """Returns every differentiable tensor, and what each is: q, k, v, layer, query or key."""
        kinds, flat = ["q", "k", "v"], [self.q, self.k, self.v]
        for group in self.tensors:
            for kind, tensors in zip(group._fields, group, strict=True):
                kinds += [kind] * len(tensors)
                flat += tensors.values()
        return kinds, flat

    def unflatten(self, flat: Sequence[Tensor]) -> Call:
        """Returns the call with these tensors in place of its own, in the order of ``flatten``."""
        q, k, v = flat[:3]
        return replace(self, q=q, k=k, v=v, tensors=self.grouped(flat))

    def grouped(self, flat: Sequence[Tensor]) -> list[Tensors]:
        """The edits' tensors of a flat list."""
        it = iter(flat[3:])
        return [Tensors(*({n: next(it) for n in d} for d in group)) for group in self.tensors]


def cut(t: Tensor, kind: str, span: Span) -> Tensor:
    """The part of an input (of the given kind) that a band reads: a view."""
    return cut_tokens(cut_batch(t, kind, span), kind, span)


def cut_batch(t: Tensor, kind: str, span: Span) -> Tensor:
    """The span's sequences of an input."""
    return of_batch(t, span) if kind in _AXES else t


def cut_tokens(t: Tensor, kind: str, span: Span) -> Tensor:
    """The span's tokens of an input."""
    if kind not in _AXES:
        return t
    axis, of = _AXES[kind]
    if of == "row":
        return t.narrow(axis, span.start - span.lead, span.stop - span.start + span.lead)
    return t.narrow(axis, span.first, span.last - span.first)


def of_batch(t: Tensor, span: Span) -> Tensor:
    """The span's sequences of ``t``; a tensor that all sequences share (b = 1) as it is."""
    return t if t.shape[0] == 1 else t[span.begin : span.end]


def exact(device: torch.device) -> AbstractContextManager[Any]:
    """Operations in the dtype of their tensors, whatever autocast says."""
    if device.type == "meta":  # which has no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def band_of(call: Call, span: Span, pad: int = 0) -> Band:
    """The band of ``span``, with ``pad`` columns beyond its last key (never visible)."""
    device, offset = call.q.device, call.offset
    rows = slice(span.start - span.lead, span.stop)
    row_index = torch.arange(rows.start, rows.stop, device=device) + offset
    col_index = torch.arange(span.first, span.last + pad, device=device)
    cols = of_batch(call.cols, span)[:, span.first : span.last]
    valid = call.valid
    if valid is not None:
        valid = of_batch(valid, span)[:, span.first : span.last]
    cols, valid = widened(cols, valid, pad)
    starts, ends = (
        None if at is None else of_batch(at, span)[:, rows.start + offset : rows.stop + offset]
        for at in (call.starts, call.ends)
    )
    at = of_batch(call.rows, span)[:, rows], cols, row_index, col_index
    return make_band(*at, call.window, valid, starts, ends, causal=call.causal)


def widened(cols: Tensor, valid: Tensor | None, pad: int) -> tuple[Tensor, Tensor | None]:
    """Positions (b, C) and padding mask (B, C) of keys, with ``pad`` more columns of padding."""
    if not pad:
        return cols, valid
    beyond = torch.arange(1, pad + 1, device=cols.device)
    cols = torch.cat([cols, cols[:, -1:] + beyond], 1)
    return cols, None if valid is None else torch.nn.functional.pad(valid, (0, pad))


class Region:
    """Where a band lies; what is made of that is made once."""

    def __init__(
        self, at: Callable[[int], Band], hidden: Tensor | None = None, seen: int = 0
    ) -> None:
        """``at``: the band with so many columns beyond its last key (never visible). seen: how many
        of the first columns every row sees, as far as is known."""
        self._at, self._hidden, self.seen = at, hidden, seen
        self._bands: dict[int, Band] = {}

    def band(self, pad: int = 0) -> Band:
        """Returns the band, widened by ``pad`` columns beyond the last."""
        if pad not in self._bands:
            self._bands[pad] = self._at(pad)
        return self._bands[pad]

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """What hides cells where it is added to scores: -inf there, 0 elsewhere."""
        if self._hidden is None:
            shown = self.shown
            hidden = torch.zeros(shown.shape, dtype=dtype, device=shown.device)
            self._hidden = hidden.masked_fill_(~shown, -torch.inf)
        return self._hidden

    @property
    def shown(self) -> Tensor:
        """(b, 1, R, C) True at cells that enter the softmax: those that are visible, and whole rows
        that see nothing, whose gradients would be NaN if nothing entered."""
        visible = self.band().visible
        return visible | ~visible.any(-1, keepdim=True)


def run_span(call: Call, span: Span, flat: Sequence[Tensor], *, weights: bool = False) -> Tensor:
    """One band from inputs already cut to it: (B, H', R, d'), or the weights (B, H', R, C)."""
    place = Region(partial(band_of, call, span))
    return run_band(call.unflatten(flat), place, span.lead, weights=weights)


def run_band(part: Call, place: Region, lead: int, *, weights: bool = False) -> Tensor:
    """The whole mathematics of the map, of a call cut to one band with ``lead`` halo rows above.

    Reference, compiled and decode run this, and chunked its three steps.
    """
    s = scores(part.q, part.k, part.heads, part.scale)
    m = edited_map(part, part.tensors, s, place, lead)
    return m if weights else combine(m, part.v, part.heads)


def edited_map(
    call: Call,
    tensors: Sequence[Tensors],
    s: Tensor,
    place: Region,
    lead: int,
    *,
    hidden: bool = False,
    add: bool = False,
) -> Tensor:
    """From the scores (B, H, lead + R, C) of a band to its edited weights (B, H', R, C).

    ``tensors`` are the edits', cut to the band. hidden: the scores are masked already. add: cells
    are hidden by an addition, several times as fast as a choice; a NaN in a hidden cell then
    reaches its row.
    """
    s = edited_scores(call, tensors, s.to(compute_dtype(s)), place)
    if not hidden:
        s = s + place.hidden(s.dtype) if add else torch.where(place.shown, s, -torch.inf)
    w = _weights(call, tensors, s, place, add)
    for n, edit in chain(call.edits, "weights"):
        w = applied(edit, edit.edit, w, place.band(), bag(tensors[n]))
        w = w if edit.keeps_zeros else place.band().zero(w)
    return w[:, :, lead:] if lead else w


def _weights(call: Call, tensors: Sequence[Tensors], s: Tensor, place: Region, add: bool) -> Tensor:
    """The softmax of masked scores, or what stands in its place; rows that see nothing are zero."""
    for n, edit in chain(call.edits, "normaliser"):
        nothing = s.amax(-1, keepdim=True) == -torch.inf
        s = torch.where(nothing, 0.0, s)
        w = place.band().zero(applied(edit, edit.edit, s, place.band(), bag(tensors[n])))
        return torch.where(nothing, 0.0, w)
    w = softmax(s, open_rows=any(e.stage == "scores" for e in call.edits) or not add)
    return place.band().zero(w) if call.valid is not None else w


def applied(
    edit: Edit,
    form: Callable[..., Tensor],
    m: Tensor,
    where: Band | Rows,
    t: dict[str, Tensor],
) -> Tensor:
    """The map (or output) by one ``form`` of the edit. Raises ``ValueError`` in one line for what
    the edit raises, and for a result that is no map of the shape that it declares."""
    name = f"{type(edit).__name__}.{getattr(form, '__name__', 'edit')}"
    try:
        out = form(m, where, t)
    except Exception as error:
        # Those of a tracer, of a helper of ours, and of memory say more by themselves.
        if _speaks(error):
            raise
        raise SoftmapError(f"{name} raised {reason(error)}") from error
    heads = edit.heads_out(m.shape[1]) if edit.stage == "weights" else m.shape[1]
    shape = (m.shape[0], heads, *m.shape[2:])
    if not isinstance(out, Tensor) or out.shape != shape:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise SoftmapError(f"{name} must return a tensor {tuple(shape)}, found {found}")
    return out


def _speaks(error: Exception) -> bool:
    own = isinstance(error, SoftmapError) or is_out_of_memory(error)
    return own or torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


def edited_scores(call: Call, tensors: Sequence[Tensors], s: Tensor, place: Region) -> Tensor:
    """Scores of a band after the scores edits; columns for ``pad`` are added and taken off."""
    edits = chain(call.edits, "scores")
    if not edits:
        return s
    width, pad = s.shape[-1], call.pad
    s = torch.nn.functional.pad(s, (0, pad)) if pad else s
    for n, edit in edits:
        s = applied(edit, edit.edit, s, place.band(pad), bag(pad_keys(tensors[n], pad)))
    return s[..., :width] if pad else s


def softmax(s: Tensor, *, open_rows: bool = True) -> Tensor:
    """Over the columns; of a map that has rows before heads in memory without a copy first.

    With ``open_rows`` a row of -inf alone is zeros: it sees nothing, as an edit decided.
    """
    if s.stride(1) < s.stride(2):
        return softmax(s.transpose(1, 2), open_rows=open_rows).transpose(1, 2)
    if not open_rows:
        return s.softmax(-1)
    # Such a row is NaN all over: one look at a column, where a number may be read.
    if can_look(s) and not bool((w := s.softmax(-1))[..., :1].isnan().any()):
        return w
    nothing = s.amax(-1, keepdim=True) == -torch.inf
    return torch.where(nothing, 0.0, torch.where(nothing, 0.0, s).softmax(-1))


def pad_keys(t: Tensors, pad: int) -> Tensors:
    """Per-key tensors extended with zeros for the columns beyond the last key."""
    if not pad or not t.key:
        return t
    return t._replace(key={n: extend(x, pad) for n, x in t.key.items()})


def extend(x: Tensor, pad: int) -> Tensor:
    """Returns x (b, S, ...) with ``pad`` zeros more along its second axis."""
    return torch.cat([x, x.new_zeros(x.shape[0], pad, *x.shape[2:])], 1)


def bag(t: Tensors) -> dict[str, Tensor]:
    """The three kinds in one dictionary, as ``Edit.edit`` takes them."""
    return {**t.layer, **t.query, **t.key}
