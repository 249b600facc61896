"""What a backend's results are compared with: the float64 truth, and what a plain map loses.

The truth starts from the same rounded numbers as the backend.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from softmap.maps import Band, Edit
from softmap.ops import reference
from softmap.ops.call import Call, bag, band_of, pad_keys
from softmap.ops.heads import combine, scores
from softmap.ops.output import apply_output
from softmap.ops.precision import Draw, Errors

# The norm of a smaller truth is zero but for rounding (a bias of all scores of a row, which the
# softmax does not see) and has no relative error.
ZERO = 1e-10

Run = Callable[[Call], Tensor]


class Yardstick(NamedTuple):
    """Results of one call by name: the float64 truth, and the plain map's."""

    truth: dict[str, Tensor]
    plain: dict[str, Tensor]


def yardstick(call: Call) -> Yardstick:
    """Returns the results that a backend's are compared with, output edits included."""
    exact = call.unflatten([_double(t) for t in call.flatten()[1]])
    plain = results(lambda call: apply_output(eager(call), call), call)
    return Yardstick(results(reference.whole, exact), plain)


def errors(run: Run, call: Call, known: Yardstick | None = None) -> Draw:
    """Returns the errors of ``run``, output edits included, of the output and each gradient.
    Uninitialised memory is NaN while it runs. A missing gradient has an infinite error.
    """
    known = known or yardstick(call)
    with poisoned():
        ours = results(run, call)
    return {
        name: Errors(_off(ours.get(name), t), _off(known.plain.get(name), t), size, t.numel())
        for name, t in known.truth.items()
        if (size := float(t.norm())) > ZERO
    }


def _double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def _off(got: Tensor | None, truth: Tensor) -> float:
    """Returns the root mean square of the error over that of the truth."""
    return math.inf if got is None else float((got.double() - truth).norm() / truth.norm())


def results(run: Run, call: Call) -> dict[str, Tensor]:
    """Returns the output and the gradient of every tensor that enters the call.

    Rows of padding are undefined: they are set to zero and send no gradient.
    """
    _, flat = call.flatten()
    leaves = [t.detach().clone().requires_grad_(t.is_floating_point()) for t in flat]
    call = call.unflatten(leaves)
    out = run(call)
    if call.valid is not None and call.own_keys:
        out = out.masked_fill(~call.valid[:, None, call.offset :, None], 0)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().view_as(out)
    named = [(n, t) for n, t in zip(names(call), leaves, strict=True) if t.requires_grad]
    grads = torch.autograd.grad(
        out, [t for _, t in named], upstream.to(out.device, out.dtype), allow_unused=True
    )
    found = {f"gradient of {n}": g for (n, _), g in zip(named, grads, strict=True)}
    return {"output": out.detach()} | {n: g for n, g in found.items() if g is not None}


def names(call: Call) -> list[str]:
    """Returns the names of the tensors of ``call.flatten()``, in its order."""
    owned = [
        f"{type(edit).__name__}'s {kind} tensor {name!r} (edit {n})"
        for n, (edit, t) in enumerate(zip(call.edits, call.tensors, strict=True))
        for kind, group in zip(t._fields, t, strict=True)
        for name in group
    ]
    return ["q", "k", "v", *owned]


def only(call: Call, wanted: Callable[[Edit], bool]) -> Call:
    """Returns the call with those of its edits alone."""
    kept = [n for n, edit in enumerate(call.edits) if wanted(edit)]
    edits, tensors = [call.edits[n] for n in kept], [call.tensors[n] for n in kept]
    return replace(call, edits=edits, tensors=tensors)


def eager(call: Call) -> Tensor:
    """Returns the output of the plain map: dense, one torch operation after another, in the
    inputs' dtype.

    This is what a user would write from the formula of [`softmap.maps`][]: scores, softmax, edits
    and products stay in half precision, gradients come from autograd.
    """
    span = call.span(0, call.queries)._replace(first=0)
    extra = call.pad
    # Rounded here: of float16 ``scores`` makes float32, which no plain map has.
    s = scores(call.q, call.k, call.heads, call.scale).to(call.q.dtype)
    s = pad(s, (0, extra))
    wide = band_of(call, span, extra)
    for n, edit in call.chain("scores"):
        s = edit.edit(s, wide, bag(pad_keys(call.tensors[n], extra))).to(call.q.dtype)
    band = band_of(call, span)
    m = s[..., : call.keys].masked_fill(~band.visible, -torch.inf)
    m = _normalised(m, call, band)
    if call.valid is not None:  # a row that sees nothing
        m = band.zero(m)
    for n, edit in call.chain("weights"):
        m = band.zero(edit.edit(m, band, bag(call.tensors[n]))).to(call.q.dtype)
    return combine(m, call.v, call.heads)


def _normalised(m: Tensor, call: Call, band: Band) -> Tensor:
    for n, edit in call.chain("normaliser"):
        return band.zero(edit.edit(m, band, bag(call.tensors[n]))).to(call.q.dtype)
    return m.softmax(-1)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN, which shows a backend that reads what it has not
    written.
    """
    on, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    memory: Any = torch.utils.deterministic  # type: ignore[attr-defined]
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that have no deterministic form
            yield
    finally:
        memory.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(on, warn_only=warn)
