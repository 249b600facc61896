"""The cache of a layer: K, V and exactly the edits' per-key tensors of the tokens so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.maps import compute_dtype
from softmap.nn.positions import Positions, padding_first
from softmap.nn.tokens import Tokens, taken
from softmap.ops.documents import can_look

ONE_DOCUMENT = "a cache holds one document a sequence: expected documents=None with it, found both"


class _State(NamedTuple):
    seen: int
    k: Tensor | None
    v: Tensor | None
    key: list[dict[str, Tensor]]
    tail: tuple[Tensor, list[dict[str, Tensor]]] | None
    running: tuple[Tensor, Tensor] | None


class _Growing:
    """A tensor that grows along one axis into spare room, so that a token costs no copy of the
    earlier ones; slices that were returned are never overwritten.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.end = 0
        self.store: Tensor | None = None
        self.held: Tensor | None = None

    def append(self, held: Tensor, new: Tensor) -> Tensor:
        """Returns ``held`` and ``new`` joined; a copy if gradients have to flow."""
        if torch.is_grad_enabled() and (held.requires_grad or new.requires_grad):
            return torch.cat([held, new], self.axis)
        before, more = held.shape[self.axis], new.shape[self.axis]
        if not self._fits(held, new):
            self._move(held, new)
        assert self.store is not None
        self.store.narrow(self.axis, self.end, more).copy_(new)
        self.end += more
        self.held = self.store.narrow(self.axis, self.end - before - more, before + more)
        return self.held

    def last(self, held: Tensor, n: int) -> Tensor:
        """Returns the last ``n`` of what was appended."""
        if n == held.shape[self.axis]:
            return held
        cut = held.narrow(self.axis, held.shape[self.axis] - n, n)
        if held is self.held:
            self.held = cut
        return cut

    def _fits(self, held: Tensor, new: Tensor) -> bool:
        """Whether ``held`` ends where the spare room begins, and the room is large enough."""
        if self.store is None or self.held is not held or self.store.dtype != new.dtype:
            return False
        if self.store.is_inference() and not torch.is_inference_mode_enabled():
            return False  # may not be written
        return self.end + new.shape[self.axis] <= self.store.shape[self.axis]

    def _move(self, held: Tensor, new: Tensor) -> None:
        self.end = held.shape[self.axis]
        shape = list(held.shape)
        shape[self.axis] = 2 * (self.end + new.shape[self.axis])
        self.store = held.new_empty(shape, dtype=torch.promote_types(held.dtype, new.dtype))
        self.store.narrow(self.axis, 0, self.end).copy_(held)


class LayerCache:
    """A layer's cache, which grows with the tokens or keeps the last ``window - 1`` of a local
    layer.

    It holds k (B, G, S, d), v (B, G', S, d') and, for each edit, {name: (B, S, ...)} and its layer
    tensors. If edits have a halo it also holds the last rows' queries; if they need the mean of the
    values (Shaped), the running sum (B, G', d') in float32 and the count (B, 1).
    """

    def __init__(self, edits: Iterable[Any], window: int | None = None) -> None:
        self.edits, self.window = list(edits), window
        self.halo = sum(e.halo for e in self.edits)
        # Rows of a halo come before the sum: then the mean is taken from the values themselves.
        bounded = window is not None or self.halo > 0
        self.needs_mean = not bounded and any(e.needs_mean for e in self.edits)
        self.seen = 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self.key: list[dict[str, Tensor]] = []
        self.layer: dict[Any, dict[str, Tensor]] = {}  # by edit
        self.tail: tuple[Tensor, list[dict[str, Tensor]]] | None = None
        self.running: tuple[Tensor, Tensor] | None = None
        self._rooms: defaultdict[str, _Growing] = defaultdict(partial(_Growing, 1))
        self._rooms |= {"k": _Growing(2), "v": _Growing(2)}
        self.recording = False
        self._undo: list[tuple[_State, Tokens]] = []
        self._mask: Tensor | None = None  # (B, seen), as it was given; None: all are real

    def check_mask(self, mask: Tensor | None) -> None:
        """Raise ``ValueError`` for an attention mask (B, S) that contradicts that of the cached
        tokens, whose order and positions are settled.
        """
        looked = [m for m in (mask, self._mask) if m is not None]
        if not all(can_look(m, wait=True) for m in looked) or not looked:
            return
        now = None if mask is None else mask[:, : self.seen].bool()
        then = None if self._mask is None else self._mask[:, : self.seen]
        if now is None or then is None:
            same = bool((then if now is None else now).all())  # type: ignore[union-attr]
        else:
            same = now.shape == then.shape and bool((now == then).all())
        if not same:
            raise SoftmapError(
                "attention_mask must say of cached tokens what it said when they were read, "
                f"expected its first {self.seen} columns as before, found others"
            )

    def _check_fits(self, new: Tokens) -> None:
        """Raise ``ValueError`` for tokens of another batch size, or of another kind of layer."""
        if self.k is None or self.v is None:
            return
        held = (self.k, self.v, [g.keys() for g in self.key])
        fresh = (new.k, new.v, [g.key.keys() for g in new.tensors])
        if _outline(*held) != _outline(*fresh):
            raise SoftmapError(
                "a cache takes tokens of the batch and the layer that it holds: expected "
                f"{_shown(*held)}, found {_shown(*fresh)}"
            )

    def extend(
        self, new: Tokens, at: Positions
    ) -> tuple[Tokens, Positions, Tensor | None, tuple[Tensor, Tensor] | None]:
        """Add new tokens; ``at`` holds the positions of all tokens so far and of the new ones.

        Returns what is then held, in the order that rows see: padding first, then the real tokens
        (of queries, those of the new tokens after the rows of a halo); the positions of these keys;
        the order (B, R) of the queries, None if it has not changed; and the sums of the values
        before the first query, if they are kept.
        """
        self._check_fits(new)
        if self.recording and not self.keeps_all:
            self._undo.append((self._state, new))
        self._mask = at.mask
        before = self._running(new.v, at.last(new.k.shape[2]).valid)
        held = self._joined(new)
        at, rows = at.last(held.k.shape[2]), None
        if at.padding == "among":
            rows, keys = at.order(held.q.shape[2]), at.order(held.k.shape[2])
            held, at, before = held.arranged(keys, rows), at.arranged(keys), None
        self._keep(held)
        return held, at, rows, before

    def _joined(self, new: Tokens) -> Tokens:
        """Returns what was kept, followed by the ``new`` tokens."""
        self.seen += new.k.shape[2]
        q, k, v, tensors = new
        if self.tail is not None:
            q = torch.cat([self.tail[0], q], 2)
            joined = [
                {n: torch.cat([old[n], t], 1) for n, t in new.query.items()}
                for old, new in zip(self.tail[1], tensors, strict=True)
            ]
            tensors = [t._replace(query=query) for t, query in zip(tensors, joined, strict=True)]
        if self.k is not None and self.v is not None:
            room = self._rooms
            k, v = room["k"].append(self.k, k), room["v"].append(self.v, v)
            joined = [
                {name: room[f"{n}.{name}"].append(old[name], t) for name, t in new.key.items()}
                for n, (old, new) in enumerate(zip(self.key, tensors, strict=True))
            ]
            tensors = [t._replace(key=key) for t, key in zip(tensors, joined, strict=True)]
        return Tokens(q, k, v, tensors)

    def _keep(self, held: Tokens) -> None:
        """Keep the keys that later rows read, and the queries of a halo."""
        q, k, v, tensors = held
        keep = k.shape[2] if self.window is None else min(self.window - 1 + self.halo, k.shape[2])
        room = self._rooms
        self.k, self.v = room["k"].last(k, keep), room["v"].last(v, keep)
        self.key = [
            {name: room[f"{n}.{name}"].last(t, keep) for name, t in group.key.items()}
            for n, group in enumerate(tensors)
        ]
        if self.halo:
            rows = min(self.halo, q.shape[2])
            queries = [{n: t[:, -rows:] for n, t in group.query.items()} for group in tensors]
            self.tail = (q[:, :, -rows:], queries)

    def _running(self, v: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Add the new values to the running sum; returns the sum before that."""
        if not self.needs_mean:
            return None
        wide = v.to(compute_dtype(v))
        count = wide.new_full((v.shape[0], 1), v.shape[2])
        if valid is not None:
            # Not a product: whatever padding holds, 0 times NaN is NaN.
            wide = torch.where(valid[:, None, :, None], wide, 0.0)
            count = valid.sum(1, keepdim=True).to(wide.dtype)
        before = self.running
        if before is None:
            before = (wide.new_zeros(*v.shape[:2], v.shape[3]), wide.new_zeros(v.shape[0], 1))
        self.running = (before[0] + wide.sum(2), before[1] + count)
        return before

    def empty_copy(self) -> LayerCache:
        """Returns an empty cache for the same layer."""
        return LayerCache(self.edits, self.window)

    def prefill(self, k: Tensor, v: Tensor) -> None:
        """Fill the cache with keys (B, G, S, d) and values (B, G', S, d') of trained prefixes."""
        self.k, self.v, self.seen = k, v, k.shape[2]
        self.key = [{} for _ in self.edits]

    @property
    def keeps_all(self) -> bool:
        """Whether tokens can be removed without having been recorded."""
        return self.window is None and not self.halo and not self.needs_mean

    @property
    def _state(self) -> _State:
        return _State(self.seen, self.k, self.v, self.key, self.tail, self.running)

    def record(self) -> None:
        """Remember the tokens since the last [`crop`][] from now on, so that a bounded or summed
        cache can remove them again, as assisted decoding asks.
        """
        self.recording = True

    def crop(self, length: int) -> None:
        """Remove all but the first ``length`` tokens, exactly as if the others had never been
        added.

        A cache with a window, a halo or a running mean can only go back as far as it has recorded.
        """
        if length >= self.seen:
            self._undo.clear()
        elif self.keeps_all:
            assert self.k is not None and self.v is not None
            first = self._first(length)
            self.seen = length
            self.k, self.v = first(self.k, 2), first(self.v, 2)
            self.key = [{n: first(t, 1) for n, t in group.items()} for group in self.key]
        else:
            self._go_back(length)

    def _go_back(self, length: int) -> None:
        """Restore the last state of at most ``length`` tokens, and add the missing ones again."""
        reach = [step for step in self._undo if step[0].seen <= length]
        if not reach:
            raise SoftmapError(
                f"a cache with a window, a halo or a running mean cannot be cropped from "
                f"{self.seen} to {length} tokens: expected record() before them (of a cache of "
                "transformers: activate_past_recording())"
            )
        (state, fed), mask = reach[-1], self._mask
        self.seen, self.k, self.v, self.key, self.tail, self.running = state
        self._undo.clear()
        if length > self.seen:
            mask = None if mask is None else mask[:, :length]
            at = Positions.of(length, mask, fed.k.device, None, self.seen)
            recording, self.recording = self.recording, False
            self.extend(fed.first(length - self.seen), at)
            self.recording = recording

    def _first(self, length: int) -> Callable[[Tensor, int], Tensor]:
        """Returns the first ``length`` tokens along an axis, in the order in which they were
        given.
        """
        if self._mask is None:
            return lambda t, axis: t.narrow(axis, 0, length)
        given = padding_first(self._mask[:, : self.seen])  # places of those held
        keep = (given >= length).long().argsort(dim=1, stable=True)[:, :length]
        return lambda t, axis: taken(t, keep, axis)

    def select(self, index: Tensor) -> None:
        """Keep these rows of the batch, in this order (beam search)."""
        self._map(lambda t: t.index_select(0, index.to(t.device)))

    def repeat(self, times: int) -> None:
        """Repeat each row of the batch ``times`` times."""
        self._map(lambda t: t.repeat_interleave(times, 0))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Returns all tensors of tokens that are held, by name."""
        if self.k is not None and self.v is not None:
            yield from (("k", self.k), ("v", self.v))
        for n, group in enumerate(self.key):
            yield from ((f"{n}.{name}", t) for name, t in group.items())
        if self.tail is not None:
            yield "tail.q", self.tail[0]
            for n, group in enumerate(self.tail[1]):
                yield from ((f"tail.{n}.{name}", t) for name, t in group.items())
        if self.running is not None:
            yield from zip(("running.sum", "running.count"), self.running, strict=True)

    def _map(self, f: Callable[[Tensor], Tensor]) -> None:
        def each(group: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: f(t) for n, t in group.items()}

        self._undo.clear()
        self._mask = None if self._mask is None else f(self._mask)
        self.k, self.v = (None if t is None else f(t) for t in (self.k, self.v))
        self.key = [each(group) for group in self.key]
        if self.tail is not None:
            self.tail = (f(self.tail[0]), [each(group) for group in self.tail[1]])
        if self.running is not None:
            self.running = (f(self.running[0]), f(self.running[1]))


def _outline(k: Tensor, v: Tensor, names: Any) -> tuple:
    """Returns all of the shape but the number of tokens."""
    return k.shape[:2], k.shape[3], v.shape[:2], v.shape[3], names


def _shown(k: Tensor, v: Tensor, names: list) -> str:
    beside = [name for group in names for name in group]
    sizes = [tuple(n for axis, n in enumerate(t.shape) if axis != 2) for t in (k, v)]
    return f"(batch, heads, width) {sizes[0]} of keys and {sizes[1]} of values beside {beside}"
