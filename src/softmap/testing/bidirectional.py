"""Checks of attention without a causal mask: to the own sequence, and to another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from softmap.errors import SoftmapError
from softmap.nn import Attention
from softmap.ops import explain
from softmap.testing.compare import ROWS, assert_same
from softmap.testing.dense import dense
from softmap.testing.layers import Note
from softmap.testing.layouts import numbered, with_gradients
from softmap.testing.subject import CheckSubject, bands, call_of

# Padding masks of two sequences: without padding, and with it among and around the tokens.
ALL = torch.ones(2, 7, dtype=torch.bool)
AMONG = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 1, 0]]).bool()
DOCUMENTS = ((1, 4, 2), (3, 4))
BAND = 3  # rows of a band of ``chunked``
REAL = ("real row", "channel")


class FormulaCase(NamedTuple):
    """Inputs x and y, the layer's rows for them (N, D), and those of the formula."""

    what: str
    inputs: list[Tensor]
    got: Callable[..., Tensor]
    want: Callable[..., Tensor]


def bidirectional(subject: CheckSubject) -> Note:
    """Without a causal mask every backend gives the dense formula's rows, and every gradient of
    them: of a sequence, of each sequence of a padded batch and of each packed document as it is
    alone; without and with a window. An edit without neighbours and distances does not know the
    order of its tokens. An edit that needs a causal mask is refused in one line."""
    why = _refused(lambda: subject.layer(causal=False))
    if why is not None:
        return why
    layer = subject.layer(causal=False, position="none")
    layer.window = None
    if all(not e.pad and e.defined_for == "cross" for e in layer.edits):
        _knows_no_order(layer, subject.input(2, 7))
    for window in (None, 3):
        layer = subject.layer(causal=False)
        layer.window = window
        _on_each_backend(subject, layer, _of_one(subject, layer))
    return None


def cross(subject: CheckSubject) -> Note:
    """The same for rows over the keys of another sequence, longer or shorter, without and with
    padding; row by row over a context that is projected once they are what they are together. An
    edit of distances, or of the row's own token, is refused in one line."""
    layer: list[Attention] = []
    why = _refused(lambda: layer.append(subject.layer(causal=False)))
    if why is not None:
        return why
    (attend,) = layer
    attend.window = None
    y = subject.with_seed(subject.seed + 2).input(2, 5)
    why = _refused(lambda: attend.project_context(y))
    if why is not None:
        return why
    if not any(e.pad for e in attend.edits):
        _knows_no_order(attend, subject.input(2, 7), y)
    _row_by_row(attend, subject.input(2, 4), y)
    _on_each_backend(subject, attend, _of_two(subject, attend))
    return None


def _refused(make: Callable[[], object]) -> Note:
    """Returns the message of an edit that is not defined there, or None."""
    try:
        make()
    except SoftmapError as error:
        text = str(error)
        assert "is defined for" in text and "\n" not in text, f"refused, but not by an edit: {text}"
        return text
    return None


def _of_one(subject: CheckSubject, layer: Attention) -> Iterator[FormulaCase]:
    x, where = subject.input(2, 7), f"(window {layer.window})"
    for what, mask in {"tokens": ALL, "padding among tokens": AMONG}.items():
        yield FormulaCase(
            f"{what} {where}", [x],
            lambda x, mask=mask: layer(x, key_mask=mask)[mask],
            lambda x, mask=mask: _apart(layer, [x[b : b + 1, m] for b, m in enumerate(mask)]),
        )  # fmt: skip
    documents = torch.stack([numbered(row) for row in DOCUMENTS])
    yield FormulaCase(
        f"packed documents {where}", [x],
        lambda x: layer(x, documents=documents).flatten(0, 1),
        lambda x: _apart(
            layer, [d for b, row in enumerate(DOCUMENTS) for d in x[b : b + 1].split(row, 1)]
        ),
    )  # fmt: skip


def _of_two(subject: CheckSubject, layer: Attention) -> Iterator[FormulaCase]:
    for what, rows, mask in (
        ("a shorter sequence", 9, ALL),
        ("a sequence with padding among", 4, AMONG),
    ):
        inputs = [subject.input(2, rows), subject.with_seed(subject.seed + 2).input(2, 7)]
        yield FormulaCase(
            f"rows over {what}", inputs,
            lambda x, y, mask=mask: layer(x, context=y, context_mask=mask).flatten(0, 1),
            lambda x, y, mask=mask: torch.cat([
                dense(layer, x[b : b + 1], y[b : b + 1, m])[0] for b, m in enumerate(mask)
            ]),
        )  # fmt: skip


def _apart(layer: Attention, sequences: list[Tensor]) -> Tensor:
    return torch.cat([dense(layer, x)[0] for x in sequences])


def _on_each_backend(subject: CheckSubject, layer: Attention, cases: Iterable[FormulaCase]) -> None:
    taken = [name for name, why in explain(call_of(layer, subject.input(1, 4))) if why is None]
    for case in cases:
        want = _evaluated(layer, case.want, case.inputs)
        for layer.impl in taken:
            with bands(BAND):
                got = _evaluated(layer, case.got, case.inputs)
            for name, value in want.items():
                axes = REAL if name == "output" else ()
                what, sides = f"{name} of {case.what}", (f"by {layer.impl}", "the formula")
                assert_same(got[name], value, what, sides=sides, axes=axes)


def _evaluated(
    layer: Attention, run: Callable[..., Tensor], inputs: list[Tensor]
) -> dict[str, Tensor]:
    """Returns the rows (N, D), and the gradient of every input and parameter."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    named = dict(zip(("x", "context"), leaves, strict=False)) | dict(layer.named_parameters())
    return with_gradients(run(*leaves), named)


@torch.no_grad()
def _knows_no_order(layer: Attention, x: Tensor, y: Tensor | None = None) -> None:
    """Permute the tokens that are seen: the rows of x over y must not change, and those of x
    over itself must be permuted alike.
    """
    keys = x if y is None else y
    order = torch.arange(keys.shape[1]).flip(0).roll(2)
    turned = keys[:, order]
    got = layer(turned) if y is None else layer(x, context=turned)
    want = layer(x)[:, order] if y is None else layer(x, context=y)
    what = "a row whose keys come in another order (an edit that reads distances, or a row's own "
    what += 'token, says defined_for = "self"; one that needs a causal mask "causal")'
    assert_same(got, want, what, sides=("in another order", "as before"), axes=ROWS)


@torch.no_grad()
def _row_by_row(layer: Attention, x: Tensor, y: Tensor) -> None:
    want, context = layer(x, context=y), layer.project_context(y)
    got = torch.cat([layer(row, context=context) for row in x.split(1, 1)], 1)
    what, sides = "a row over a context that was projected before", ("alone", "among others")
    assert_same(got, want, what, sides=sides, axes=ROWS)
