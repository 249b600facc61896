"""The kind of a call, all that decides which code runs it: the key of a verdict."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import torch

from softmap.maps import Edit
from softmap.ops.call import Call


class CallKind(NamedTuple):
    """Names, numbers and flags alone, so that a compiler can pass it to a function.

    Attributes:
        backend: the name of its module.
        heads: maps, keys, values, outputs.
        widths: d, d'.
        queries: ``all`` (of the keys' tokens), ``some`` or ``one``.
        masks: which of window, padding, documents and running sums the call has.
        edits: those that the backend has code for, (stage, kernel, class, tensors); a tensor is
            (kind, name, shape without sequences and tokens, dtype).
        exact: whether float32 products are not TF32.
    """

    backend: str
    device: str
    dtype: str
    heads: tuple[int, int, int, int]
    widths: tuple[int, int]
    queries: str
    masks: tuple[str, ...]
    edits: tuple[Any, ...]
    exact: bool


def kind_of(backend: ModuleType, call: Call) -> CallKind:
    """Returns the kind of a call. Compilers trace this, so it reads nothing but attributes."""
    h, q = call.heads, call.q
    masks = (
        ("window", call.window), ("padding", call.valid), ("documents", call.starts),
        ("running", call.running),
    )  # fmt: skip
    return CallKind(
        backend.__name__,
        str(q.device),
        str(q.dtype),
        (h.maps, h.keys, h.values, h.outputs),
        (q.shape[3], call.v.shape[3]),
        _queries(call),
        tuple([name for name, given in masks if given is not None]),
        tuple([_edit(n, call) for n, e in enumerate(call.edits) if has_code(backend, e)]),
        _exact(),
    )


def has_code(backend: ModuleType, edit: Edit) -> bool:
    """Whether the backend runs the edit by code of its own; output edits run in torch, except
    those that it names in ``OUTPUTS``.
    """
    return edit.stage != "output" or edit.kernel in getattr(backend, "OUTPUTS", ())


def _queries(call: Call) -> str:
    if call.queries == call.keys:
        return "all"
    return "one" if call.queries == 1 else "some"


def _edit(n: int, call: Call) -> tuple[Any, ...]:
    edit, t = call.edits[n], call.tensors[n]
    tensors = [
        (kind, name, tuple(x.shape[0 if kind == "layer" else 2 :]), str(x.dtype))
        for kind, group in (("layer", t.layer), ("query", t.query), ("key", t.key))
        for name, x in group.items()
    ]
    return (edit.stage, edit.kernel, type(edit).__qualname__, tuple(tensors))


def _exact() -> bool:
    return not torch.backends.cuda.matmul.allow_tf32


# As torch.compiler.assume_constant_result does: a compiler reads it when it traces, and guards it.
_exact._dynamo_marked_constant = True  # type: ignore[attr-defined]


def known(kind: CallKind) -> bool:
    """Whether its sizes are numbers, not symbols of a tracer."""
    shapes = [t[2] for edit in kind.edits for t in edit[3]]
    return all(type(n) is int for size in (kind.heads, kind.widths, *shapes) for n in size)


def spelled(kind: CallKind) -> str:
    """Returns a text for people: ``Compose, 16 heads of 64, bfloat16``."""
    names = list(dict.fromkeys(edit[2] for edit in kind.edits))
    d, dv = kind.widths
    wide = f"{d}" if d == dv else f"{d} and {dv}"
    masks = f" with {', '.join(kind.masks)}" if kind.masks else ""
    few = {"one": ", one query", "some": ", few queries"}.get(kind.queries, "")
    dtype = kind.dtype.removeprefix("torch.")
    what = " + ".join(names) or "plain attention"
    return f"{what}, {kind.heads[0]} heads of {wide}, {dtype}{few}{masks}"
