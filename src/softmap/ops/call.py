"""One attention call: its tensors, its masks, and the bands that are cut out of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.maps import STAGES, Band, Edit, Rows, Tensors, chain, compute_dtype, make_band
from softmap.ops.documents import can_look
from softmap.ops.heads import Heads, combine, per_map, scores
from softmap.ops.memory import is_out_of_memory


class Span(NamedTuple):
    """A band: query rows [start, stop) with ``lead`` halo rows above, over keys [first, last), for
    the sequences [begin, end) of the batch."""

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
    """The call that a backend is given.

    In causal attention the last T of the S keys belong to the T queries. Otherwise all keys do
    (self-attention, T = S) or none (cross-attention).

    Attributes:
        q: (B, H, T, d).
        k: (B, G, S, d).
        v: (B, G', S, d').
        rows, cols: (b, T) and (b, S) token positions.
        valid: (B, S), True at real keys; None without padding.
        running: the sum (B, G', d') and the number (B, 1) of the values *before* the first query,
            for edits that need the mean of all values; else None.
        starts: (b, S) int64, for each token the index of the first token of its document; None
            where each sequence is one document. A causal row i sees the keys starts[i] .. i.
        ends: (b, S) int64, for each token the index after the last token of its document. A row
            without the causal mask sees the keys starts[i] .. ends[i] - 1.
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
    _chains: dict[str, list[tuple[int, Edit]]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Asked for dozens of times a call, which a step of decoding would notice.
        chains = {stage: chain(self.edits, stage) for stage in STAGES}
        object.__setattr__(self, "_chains", chains)

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
        """The index of the first query among the keys."""
        return self.keys - self.queries if self.causal else 0

    def chain(self, stage: str) -> list[tuple[int, Edit]]:
        """Returns the edits of one stage, each with its index among all, in order."""
        return self._chains[stage]

    @property
    def own_keys(self) -> bool:
        """Whether each query's own token is among the keys."""
        return self.causal or self.queries == self.keys

    def row_bytes(self, keys: int) -> int:
        """Returns the bytes that one row of all maps takes over this number of keys."""
        return self.heads.maps * keys * compute_dtype(self.q).itemsize

    @property
    def halo(self) -> int:
        """The number of rows above a band that its edits read; the halos of a chain add up."""
        return sum(e.halo for e in self.edits)

    @property
    def pad(self) -> int:
        """The number of columns beyond the diagonal that scores edits read; 0 if not causal."""
        if not self.causal:
            return 0
        return max([0, *(e.pad for _, e in self.chain("scores"))])  # no default=: dynamo

    @property
    def batch(self) -> int:
        """B, the number of sequences."""
        return self.q.shape[0]

    @property
    def reach(self) -> tuple[Tensor, Tensor]:
        """First and last, (B, T) each: query t sees the keys [first, last), padding aside."""
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
        """The number of keys that each query sees, (B, T)."""
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
        """Returns what an edit without a map may read, for ``maps`` maps."""
        return Rows(
            self.rows, lambda: self.count, lambda: per_map(self.own_values, maps), lse, mean
        )

    @property
    def own_values(self) -> Tensor:
        """The values of the queries' own tokens, (B, G', T, d').

        Raises ``ValueError`` in cross-attention, where they have none.
        """
        if not self.own_keys:
            raise SoftmapError(
                "a row of cross-attention has no value of its own: expected an edit that reads it "
                'to say defined_for = "self", found "cross"'
            )
        return self.v[:, :, self.offset :]

    @cached_property
    def _earliest(self) -> list[int] | None:
        """For each token the first key that its row sees in any sequence of the batch.

        None on a GPU: reading it would make the CPU wait."""
        if self.starts is None or self.starts.device.type != "cpu":
            return None
        return self.starts.amin(0).tolist()

    @cached_property
    def _latest(self) -> list[int] | None:
        """For each token the index after the last key that its row sees in any sequence."""
        if self.ends is None or self.ends.device.type != "cpu":
            return None
        return self.ends.amax(0).tolist()

    def most_keys(self, rows: int) -> int:
        """Returns the largest number of keys that a band of ``rows`` rows can see."""
        if self.window is None:
            return self.keys
        return min(self.keys, (self.window if self.causal else 2 * self.window) + rows)

    def span(self, start: int, stop: int) -> Span:
        """Returns the band of queries [start, stop): its halo and the keys that its rows see."""
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
        """Returns bands of ``rows`` queries, ``sequences`` at a time (by default all of them)."""
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
        """Returns the edits' tensors from a flat list such as [`flatten`][] gives."""
        it = iter(flat[3:])
        return [Tensors(*({n: next(it) for n in d} for d in group)) for group in self.tensors]


def cut_batch(t: Tensor, kind: str, span: Span) -> Tensor:
    """Returns the sequences of the span from an input of this kind."""
    return of_batch(t, span) if kind in _AXES else t


def cut_tokens(t: Tensor, kind: str, span: Span) -> Tensor:
    """Returns the tokens of the span from an input of this kind."""
    if kind not in _AXES:
        return t
    axis, of = _AXES[kind]
    if of == "row":
        return t.narrow(axis, span.start - span.lead, span.stop - span.start + span.lead)
    return t.narrow(axis, span.first, span.last - span.first)


def of_batch(t: Tensor, span: Span) -> Tensor:
    """Returns the sequences of the span; a tensor that all sequences share (b = 1) as it is."""
    return t if t.shape[0] == 1 else t[span.begin : span.end]


def exact(device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which autocast is off, so that operations keep their tensors' dtype."""
    # "meta" has no autocast, and a context costs as much as several operators.
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def band_of(call: Call, span: Span, pad: int = 0) -> Band:
    """Returns the band of ``span``, with ``pad`` columns (never visible) after its last key."""
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
    """Returns positions (b, C) and padding mask (B, C) of keys with ``pad`` columns appended."""
    if not pad:
        return cols, valid
    beyond = torch.arange(1, pad + 1, device=cols.device)
    cols = torch.cat([cols, cols[:, -1:] + beyond], 1)
    return cols, None if valid is None else torch.nn.functional.pad(valid, (0, pad))


class Region:
    """The region of the map that a band covers; its bands and masks are computed once."""

    def __init__(
        self, at: Callable[[int], Band], hidden: Tensor | None = None, seen: int = 0
    ) -> None:
        """Keep how to compute the band.

        Args:
            at: returns the band with that many columns (never visible) after its last key.
            hidden: what [`hidden`][] would compute, where it is known.
            seen: the number of first columns that every row is known to see.
        """
        self._at, self._hidden, self.seen = at, hidden, seen
        self._bands: dict[int, Band] = {}

    def band(self, pad: int = 0) -> Band:
        """Returns the band, widened by ``pad`` columns beyond the last."""
        if pad not in self._bands:
            self._bands[pad] = self._at(pad)
        return self._bands[pad]

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """Returns the additive mask: -inf where scores are hidden, 0 elsewhere."""
        if self._hidden is None:
            shown = self.shown
            hidden = torch.zeros(shown.shape, dtype=dtype, device=shown.device)
            self._hidden = hidden.masked_fill_(~shown, -torch.inf)
        return self._hidden

    @property
    def shown(self) -> Tensor:
        """The cells that enter the softmax, boolean (b, 1, R, C).

        They are the visible ones, and all cells of rows that see nothing: the gradient of an empty
        softmax would be NaN.
        """
        visible = self.band().visible
        return visible | ~visible.any(-1, keepdim=True)


def run_band(part: Call, region: Region, lead: int, *, weights: bool = False) -> Tensor:
    """Returns the output, or the weights, of a call cut to one band with ``lead`` halo rows.

    This is all of the maths of the map: ``reference``, ``compiled`` and decoding call it, and
    ``chunked`` its three steps.
    """
    s = scores(part.q, part.k, part.heads, part.scale)
    m = edited_map(part, part.tensors, s, region, lead)
    return m if weights else combine(m, part.v, part.heads)


def edited_map(
    call: Call,
    tensors: Sequence[Tensors],
    s: Tensor,
    region: Region,
    lead: int,
    *,
    hidden: bool = False,
    add: bool = False,
) -> Tensor:
    """Returns a band's edited weights (B, H', R, C) from its scores (B, H, lead + R, C).

    Args:
        tensors: the edits', cut to the band.
        hidden: whether the scores are masked already.
        add: mask by adding -inf, which is several times as fast as ``torch.where``; a NaN in a
            hidden cell then spoils its row.
    """
    s = edited_scores(call, tensors, s.to(compute_dtype(s)), region)
    if not hidden:
        s = s + region.hidden(s.dtype) if add else torch.where(region.shown, s, -torch.inf)
    w = _weights(call, tensors, s, region, add)
    for n, edit in call.chain("weights"):
        w = applied(edit, edit.edit, w, region.band(), bag(tensors[n]))
        w = w if edit.keeps_zeros else region.band().zero(w)
    return w[:, :, lead:] if lead else w


def _weights(
    call: Call, tensors: Sequence[Tensors], s: Tensor, region: Region, add: bool
) -> Tensor:
    """Returns the softmax or the normaliser's weights of masked scores; empty rows are zero."""
    for n, edit in call.chain("normaliser"):
        nothing = s.amax(-1, keepdim=True) == -torch.inf
        s = torch.where(nothing, 0.0, s)
        w = region.band().zero(applied(edit, edit.edit, s, region.band(), bag(tensors[n])))
        return torch.where(nothing, 0.0, w)
    w = softmax(s, open_rows=any(e.stage == "scores" for e in call.edits) or not add)
    return region.band().zero(w) if call.valid is not None else w


def applied(
    edit: Edit,
    form: Callable[..., Tensor],
    m: Tensor,
    where: Band | Rows,
    t: dict[str, Tensor],
) -> Tensor:
    """Returns the map (or output) that one ``form`` of the edit computes.

    Raises ``ValueError`` in one line for what the edit raises, and for a result of another shape
    than it declares.
    """
    name = f"{type(edit).__name__}.{getattr(form, '__name__', 'edit')}"
    try:
        out = form(m, where, t)
    except Exception as error:
        # Errors of a tracer, of ours and of memory are clearer unwrapped.
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


def edited_scores(call: Call, tensors: Sequence[Tensors], s: Tensor, region: Region) -> Tensor:
    """Returns a band's scores after the scores edits, which see ``pad`` more columns on the way."""
    edits = call.chain("scores")
    if not edits:
        return s
    width, pad = s.shape[-1], call.pad
    s = torch.nn.functional.pad(s, (0, pad)) if pad else s
    for n, edit in edits:
        s = applied(edit, edit.edit, s, region.band(pad), bag(pad_keys(tensors[n], pad)))
    return s[..., :width] if pad else s


def softmax(s: Tensor, *, open_rows: bool = True) -> Tensor:
    """Returns the softmax over the columns, without a copy of maps that store rows before heads.

    With ``open_rows`` a row of -inf alone gives zeros: an edit has hidden all of its keys.
    """
    if s.stride(1) < s.stride(2):
        return softmax(s.transpose(1, 2), open_rows=open_rows).transpose(1, 2)
    if not open_rows:
        return s.softmax(-1)
    # Such a row is all NaN, so one column tells; it can only be read outside of a compiler.
    if can_look(s) and not bool((w := s.softmax(-1))[..., :1].isnan().any()):
        return w
    nothing = s.amax(-1, keepdim=True) == -torch.inf
    return torch.where(nothing, 0.0, torch.where(nothing, 0.0, s).softmax(-1))


def pad_keys(t: Tensors, pad: int) -> Tensors:
    """Returns the tensors with ``pad`` zeros appended to those of keys."""
    if not pad or not t.key:
        return t
    return t._replace(key={n: extend(x, pad) for n, x in t.key.items()})


def extend(x: Tensor, pad: int) -> Tensor:
    """Returns x (b, S, ...) with ``pad`` zeros appended along its second axis."""
    return torch.cat([x, x.new_zeros(x.shape[0], pad, *x.shape[2:])], 1)


def bag(t: Tensors) -> dict[str, Tensor]:
    """Returns the three kinds of tensors in one dictionary, as ``Edit.edit`` takes them."""
    return {**t.layer, **t.query, **t.key}
