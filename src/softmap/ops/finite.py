"""Confines NaN and infinity to the rows that see them.

Later tokens, padding, other documents and what lies outside of the window leave no trace, although
0 times NaN is NaN in the products of a band. A call runs at full speed, and then its output is
checked. If it is not finite, the call runs again without the tokens that are not; rows that see one
of them are NaN, and so are the gradients of all that such a row sees, if it enters the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from softmap.maps import Band
from softmap.ops.call import Call
from softmap.ops.documents import can_look

Run = Callable[[Call], Tensor]


class Marks(NamedTuple):
    """True at keys (B, S) that are not finite, and at rows (B, T) that are not or see one."""

    keys: Tensor
    rows: Tensor


def suspect(o: Tensor, call: Call) -> bool:
    """Whether hidden cells may have affected a row: some cell is hidden, and the output ``o``
    is not finite. Beside padding or documents and with gradients, one non-finite input is
    enough, since it can make gradients NaN without appearing in a row.

    It is checked only on a CPU, outside of compilers.
    """
    masks = (call.valid, call.window, call.starts)
    sees_all = call.queries == 1 or not call.causal
    if (sees_all and all(m is None for m in masks)) or not can_look(o):
        return False
    looked = [o]
    if o.requires_grad and (call.valid is not None or call.starts is not None):
        kinds, flat = call.flatten()
        looked += [t for kind, t in zip(kinds, flat, strict=True) if kind != "layer"]
    return not all(math.isfinite(t.detach().sum(dtype=_sum_dtype(t))) for t in looked)


def _sum_dtype(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def isolated(run: Run, call: Call) -> Tensor:
    """Returns ``run(call)``, (B, H', T, d'), with each row as if the cells hidden from it did
    not exist; rows that see a token that is not finite are NaN.
    """
    marks = marked(call)
    with torch.no_grad():
        values = run(without(call, marks)).masked_fill_(marks.rows[:, None, :, None], torch.nan)
    if not torch.is_grad_enabled():
        return values
    # Rows that overflow go, too: their gradient is NaN even where they do not enter the loss.
    marks = marks._replace(rows=marks.rows | ~_finite(values.transpose(1, 2)))
    return _Isolated.apply(  # type: ignore[no-any-return]
        run(without(call, marks)), values, call, marks, *call.flatten()[1]
    )


def isolated_map(run: Run, call: Call, band: Band) -> Tensor:
    """Returns the weights (B, H', T, S) of the whole ``band`` in the same way: NaN at the cells
    that such a row sees, zero at the others.
    """
    marks = marked(call)
    weights = run(without(call, marks))
    return weights.masked_fill(marks.rows[:, None, :, None] & band.visible, torch.nan)


def marked(call: Call) -> Marks:
    """Returns the marks that follow from q, k, v and the edits' tensors of tokens."""
    keys = torch.zeros(call.batch, call.keys, dtype=torch.bool, device=call.q.device)
    rows = keys.new_zeros(call.batch, call.queries)
    for kind, t in zip(*call.flatten(), strict=True):
        t = t.detach().transpose(1, 2) if kind in ("q", "k", "v") else t.detach()
        if kind != "layer" and t.is_floating_point():
            (rows if kind in ("q", "query") else keys).logical_or_(~_finite(t))
    counted = keys if call.valid is None else keys & call.valid
    count = torch.nn.functional.pad(counted.long().cumsum(1), (1, 0))
    first, last = call.reach
    rows |= count.gather(1, last) > count.gather(1, first)
    for n in range(1, call.halo + 1):  # a row is what it reads of the rows above
        rows[:, n:] |= rows[:, :-n].clone()
    return Marks(keys, rows)


def without(call: Call, marks: Marks) -> Call:
    """Returns the call with zeros for all that is marked."""
    flat = []
    for kind, t in zip(*call.flatten(), strict=True):
        of = marks.rows if kind in ("q", "query") else marks.keys
        if kind != "layer":
            t = t.expand(call.batch, *t.shape[1:]).masked_fill(_over(of, t, kind), 0)
        flat.append(t)
    return call.unflatten(flat)


def _finite(t: Tensor) -> Tensor:
    """Returns which tokens (b, T) of (b, T, ...) are finite."""
    return t.isfinite().reshape(*t.shape[:2], math.prod(t.shape[2:])).all(2)


def _over(mark: Tensor, t: Tensor, kind: str) -> Tensor:
    """Returns a mark (B, T) that broadcasts to a tensor of tokens."""
    mark = mark[:, None] if kind in ("q", "k", "v") else mark
    return mark.view(*mark.shape, *[1] * (t.ndim - mark.ndim))


class _Isolated(torch.autograd.Function):
    """Returns ``values``; its gradient goes to ``clean``, and NaN from marked rows to what they
    see.
    """

    @staticmethod
    def forward(
        ctx: Any, clean: Tensor, values: Tensor, call: Call, marks: Marks, *flat: Tensor
    ) -> Tensor:
        none: list[Any] = [None] * len(flat)  # not the tensors: checkpointing is to free them
        ctx.call, ctx.marks, ctx.reach = call.unflatten(none), marks, call.reach
        ctx.kinds, ctx.likes = call.flatten()[0], [t.new_empty(()).expand(t.shape) for t in flat]
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rows = ctx.marks.rows & (grad != 0).any(3).any(1)
        clean = grad.masked_fill(ctx.marks.rows[:, None, :, None], 0)
        if not bool(rows.any()):
            return clean, None, None, None, *([None] * len(ctx.kinds))
        marks = _seen_by(rows, ctx.call, ctx.reach)
        grads = [
            _nan_at(marks, kind, t) if need else None
            for kind, t, need in zip(ctx.kinds, ctx.likes, ctx.needs_input_grad[4:], strict=True)
        ]
        return clean, None, None, None, *grads


def _seen_by(rows: Tensor, call: Call, reach: tuple[Tensor, Tensor]) -> Marks:
    """Returns the rows that the marked ones read, themselves included, and the keys that those
    see.
    """
    rows = rows.clone()
    for _ in range(sum(e.halo for e in call.edits)):
        rows[:, :-1] |= rows[:, 1:].clone()
    ends = torch.zeros(len(rows), int(reach[1].max()) + 1, dtype=torch.long, device=rows.device)
    for at, sign in zip(reach, (1, -1), strict=True):
        ends.scatter_add_(1, at, sign * rows.long())
    keys = ends.cumsum(1)[:, :-1] > 0
    return Marks(keys if call.valid is None else keys & call.valid, rows)


def _nan_at(marks: Marks, kind: str, t: Tensor) -> Tensor:
    """Returns a gradient for ``t``: NaN at what is marked, zero elsewhere."""
    grad = torch.zeros(t.shape, dtype=t.dtype, device=t.device)
    if kind == "layer":
        return grad.fill_(torch.nan)
    mark = marks.rows if kind in ("q", "query") else marks.keys
    mark = mark if t.shape[0] == len(mark) else mark.any(0, keepdim=True)
    return grad.masked_fill_(_over(mark, t, kind), torch.nan)
