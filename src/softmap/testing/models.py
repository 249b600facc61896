"""Checks of a whole decoder: causality, decoding, batches, files, counts."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor

from softmap.nn import Decoder, accounting
from softmap.testing.compare import ROWS, assert_equal, assert_same, difference
from softmap.testing.layers import Note
from softmap.testing.layouts import numbered, with_gradients
from softmap.testing.subject import VOCABULARY, CheckSubject, bands, perturb, seeded


@torch.no_grad()
def causality(subject: CheckSubject) -> Note:
    """Changing later tokens leaves every earlier row bitwise equal, on each backend that runs; and
    NaN in them leaves it what it was."""
    ids = subject.ids(2, 13)
    for impl in subject.backends:
        model = subject.decoder(torch.float32, impl=impl)
        with bands(4):
            before = model(ids)
            for first in (1, 6, 12):
                changed = ids.clone()
                changed[:, first:] = (changed[:, first:] + 1) % VOCABULARY
                after = model(changed)
                _unchanged(after, before, first, impl)
    _with_nan(subject)
    _while_training(subject)
    return None


def _unchanged(after: Tensor, before: Tensor, first: int, how: str) -> None:
    """Assert that the rows before token ``first`` are bitwise equal to those before later tokens
    were changed.
    """
    off = (after != before)[:, :first].any(-1).any(0)
    if off.any():
        row = int(off.nonzero()[0])
        here = torch.arange(after.shape[1])[:, None] == row
        now, then = after.where(here, 0.0), before.where(here, 0.0)
        raise AssertionError(
            f"{how}: row {row} changed when the tokens from {first} on were changed; a row must "
            f"not read later tokens; {difference(now, then, ('now', 'before'), ROWS)}"
        )


def _with_nan(subject: CheckSubject) -> None:
    for impl in subject.backends:
        model = subject.decoder(impl=impl)
        x = subject.input(2, 13)
        with bands(4):
            before = model(inputs_embeds=x)
            x[:, 6:] = torch.nan
            after = model(inputs_embeds=x)
        what = f"{impl}: a row before token 6, from which on the input became NaN"
        assert_same(after[:, :6], before[:, :6], what, sides=("now", "before"), axes=ROWS)
        assert after[:, 6:].isnan().all(), f"{impl}: a row that sees NaN does not show it"


@torch.enable_grad()
def _while_training(subject: CheckSubject) -> None:
    """Assert the same at the length and in the mode of training, where an edit may differ."""
    tokens = subject.context
    ids, model = subject.ids(2, tokens), subject.decoder(torch.float32).train()
    before = model(ids)
    for first in (tokens // 2, tokens - 1):
        changed = ids.clone()
        changed[:, first:] = (changed[:, first:] + 1) % VOCABULARY
        _unchanged(model(changed), before, first, f"training on {tokens} tokens")


@torch.no_grad()
def decoding(subject: CheckSubject) -> Note:
    """With a cache, every row equals that of one pass over all tokens: token by token and in
    uneven pieces, without and with left padding, without and with a local layer."""
    ids = subject.ids(2, 13)
    for window in (None, 4):
        for impl in ("reference", "auto"):
            model = subject.decoder(window=window, impl=impl)
            for padding in (0, 6):
                mask = _left_mask([padding, 0], 13)
                with bands(4):
                    want = model(ids, mask)
                    for pieces in ([1] * 13, [5, 1, 4, 3]):
                        got = _decode(model, ids, mask, pieces)
                        what = f"a row decoded {_how(pieces)}"
                        what += f" (impl {impl}, window {window}, padding {padding})"
                        got, want = (x.where(mask[..., None], 0.0) for x in (got, want))
                        sides = ("with a cache", "in one pass")
                        assert_same(got, want, what, sides=sides, axes=ROWS)
    return None


def _how(pieces: list[int]) -> str:
    if set(pieces) == {1}:
        return "token by token"
    return f"in pieces of {', '.join(map(str, pieces))} tokens"


def _decode(model: Decoder, ids: Tensor, mask: Tensor, pieces: list[int]) -> Tensor:
    """Returns the hidden states of ids that are fed piece by piece with a cache."""
    caches, parts, start = model.new_caches(), [], 0
    for size in pieces:
        stop = start + size
        parts.append(model(ids[:, start:stop], mask[:, :stop], caches))
        start = stop
    return torch.cat(parts, 1)


def _left_mask(padding: list[int], tokens: int) -> Tensor:
    return torch.arange(tokens)[None] >= torch.tensor(padding)[:, None]


@torch.no_grad()
def rollback(subject: CheckSubject) -> Note:
    """A cache cropped after tokens that were refused (assisted decoding) goes on as if they had
    never come: bounded, summed and halo caches included."""
    ids = subject.ids(2, 13)
    wrong = (ids + 1) % VOCABULARY
    for window in (None, 4):
        model = subject.decoder(window=window)
        want, caches = model(ids), model.new_caches()
        model(ids[:, :6], None, caches)
        for cache in caches:
            cache.record()
        # Two right tokens and two wrong ones in one pass, then a wrong one alone.
        model(torch.cat([ids[:, 6:8], wrong[:, 8:10]], 1), None, caches)
        model(wrong[:, 10:11], None, caches)
        for cache in caches:
            cache.crop(8)
        got = model(ids[:, 8:], None, caches)
        what = f"a row after the cache was cropped to 8 tokens (window {window})"
        sides = ("with the cropped cache", "in one pass")
        assert_same(got, want[:, 8:], what, sides=sides, axes=ROWS)
    return None


@torch.no_grad()
def batching(subject: CheckSubject) -> Note:
    """A sequence alone gives the rows that it gives in a batch, wherever there is padding: at the
    left, at the right or among its tokens, as batched chat leaves it; in one pass and in pieces
    with a cache, without and with a local layer."""
    ids = subject.ids(3, 9)
    for window in (None, 4):
        model = subject.decoder(window=window)
        alone = [model(row[None, :n])[0] for row, n in zip(ids, LENGTHS, strict=True)]
        for side, mask in _masks().items():
            batch = torch.zeros_like(ids).masked_scatter(
                mask, torch.cat([row[:n] for row, n in zip(ids, LENGTHS, strict=True)])
            )
            for how, got in (
                ("in one pass", model(batch, mask)),
                ("in pieces", _decode(model, batch, mask, [3, 1, 3, 2])),
            ):
                for row, n in enumerate(LENGTHS):
                    what = f"sequence of {n} with padding {side}, {how} (window {window})"
                    _as_alone(got[row][mask[row]], alone[row], what)
    whole = subject.decoder()(ids[:, :4])
    _as_alone(whole[1], subject.decoder()(ids[1:2, :4])[0], "sequence of 4 without padding")
    return None


def _as_alone(got: Tensor, want: Tensor, what: str) -> None:
    assert_same(got, want, what, sides=("in a batch", "alone"), axes=("real token", "channel"))


LENGTHS = (9, 4, 7)


def _masks() -> dict[str, Tensor]:
    """Returns masks (3, 9) with ``LENGTHS`` real tokens, for each place where padding may be."""
    at, n = torch.arange(9), torch.tensor(LENGTHS)[:, None]
    among = torch.ones(3, 9, dtype=torch.bool)
    among[1, [0, 2, 3, 6, 8]] = False
    among[2, [4, 5]] = False
    return {"at the left": at >= 9 - n, "at the right": at < n, "among its tokens": among}


def packing(subject: CheckSubject) -> Note:
    """Documents packed in one sequence give the rows, and together the gradients, that each gives
    alone, on each backend that runs; without and with a local layer."""
    layer = subject.layer()
    if any(edit.halo for edit in layer.edits):
        return "an edit reads earlier rows: documents are refused"
    ids, lengths = subject.ids(2, 13), ([3, 1, 5, 4], [9, 4])
    documents = torch.stack([numbered(row) for row in lengths])
    for window in (None, 4):
        for impl in subject.backends:
            model = subject.decoder(window=window, impl=impl)
            with bands(4):
                named = dict(model.named_parameters())
                want = with_gradients(_apart(model, ids, lengths), named)
                got = with_gradients(model(ids, documents=documents), named)
            for name, value in want.items():
                what = f"{name} of packed documents by {impl} (window {window})"
                axes = ROWS if name == "output" else ()
                assert_same(got[name], value, what, sides=("packed", "each alone"), axes=axes)
    return None


def _apart(model: Decoder, ids: Tensor, lengths: Iterable[list[int]]) -> Tensor:
    """Returns the hidden states of documents that are run one by one."""
    rows = [row.split(sizes) for row, sizes in zip(ids, lengths, strict=True)]
    return torch.stack([torch.cat([model(d[None])[0] for d in row]) for row in rows])


@torch.no_grad()
def saving(subject: CheckSubject) -> Note:
    """``save_pretrained`` and ``from_pretrained`` (safetensors) give bitwise equal logits."""
    try:
        from softmap.hf import SoftmapConfig, SoftmapForCausalLM
    except ImportError as error:
        return f"left out: {error}"
    fields = dataclasses.asdict(subject.config())
    with seeded(subject.seed):
        model = perturb(SoftmapForCausalLM(SoftmapConfig(**fields))).eval()
    ids = subject.ids(2, 9)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with seeded(subject.seed + 1):
            again = SoftmapForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    axes = ("sequence", "row", "token")
    what, sides = "logits after save and load", ("loaded", "saved")
    assert_equal(again(ids).logits, model(ids).logits, what, sides=sides, axes=axes)
    return None


@torch.no_grad()
def accounting_is_true(subject: CheckSubject) -> Note:
    """The counted parameters are those of the built model; the counted cache bytes are what each
    token adds to a real cache; and a local layer's cache stops growing.
    """
    model = subject.decoder(torch.float32, window=4)
    built = sum(p.numel() for p in model.parameters())
    counted = accounting.parameters(subject.config())["total"]
    assert counted == built, f"accounting counts {counted} parameters, the model has {built}"
    caches, sizes = model.new_caches(), []
    full = 12 + caches[0].halo  # a local layer's cache has as much as it keeps
    ids = subject.ids(1, full + 9)
    for start, stop in pairwise((0, full, full + 1, full + 9)):
        model(ids[:, start:stop], None, caches)
        sizes.append([sum(t.nbytes for _, t in c.tensors()) for c in caches])
    (local_a, global_a), (local_b, global_b), (local_c, global_c) = sizes
    said = accounting.cache_bytes_per_token(subject.config(window=4), bytes_per_element=4)
    grown = (global_b - global_a, (global_c - global_b) / 8)
    assert grown == (said, said), f"cache grows by {grown} bytes a token, accounting says {said}"
    assert local_a == local_b == local_c, f"local cache grows: {local_a}, {local_b}, {local_c}"
    return None
