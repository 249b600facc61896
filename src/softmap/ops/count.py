"""Operations of an edit, counted by running it, so that nothing has to be declared.

The edit runs on a small band without numbers (torch's ``meta`` device) while every operation is
recorded. A matrix product or a convolution of m x k by k x n counts 2 m k n; any other operation on
floating-point numbers counts one for each element of the largest tensor that it reads or writes, a
multiply-add two; copies, views, masks and index arithmetic count nothing. Runs of two sizes per
axis separate what grows with the cells of the map from what grows with its rows and keys.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from softmap.errors import SoftmapError, reason
from softmap.maps import Edit, Rows, Tensors, make_band
from softmap.ops.call import bag, pad_keys
from softmap.ops.folded import has_form

SIDE = 8  #: rows, and keys, of the smaller band; a multiple of what edits group tokens by
MOVES = {
    "clone", "copy", "copy_", "_to_copy", "cat", "stack", "constant_pad_nd", "where",
    "masked_fill", "masked_fill_", "gather", "index", "index_select", "embedding", "roll", "flip",
    "fill", "fill_", "zero_", "full", "full_like", "zeros", "zeros_like", "ones", "ones_like",
    "empty", "empty_like", "empty_strided", "new_zeros", "new_ones", "new_full", "new_empty",
    "new_empty_strided", "scalar_tensor", "arange", "tril", "triu", "_unsafe_view",
}  # fmt: skip
TWO = {"addcmul", "addcmul_", "addcdiv", "addcdiv_", "lerp", "lerp_"}


class Counted(NamedTuple):
    """Forward operations of an edit of all heads.

    Attributes:
        cell: at one (i, j) of one sequence's map; what all sequences of a batch share (a position
            bias) is not included.
        token: for one token: its own tensors, and what an output edit or a closed form does with
            it.
    """

    cell: float
    token: float


class _Watch(TorchDispatchMode):
    """Adds up the operations that run under it."""

    total = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += _cost(func, args, kwargs or {}, out)
        return out


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    """Returns torch's formulas for products, by operator."""
    from torch.utils.flop_counter import flop_registry  # it imports Triton

    return dict(flop_registry)


def _cost(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> float:
    packet = func._overloadpacket
    if packet in (formulas := _formulas()):
        return float(formulas[packet](*args, **kwargs, out_val=out))
    name = packet.__name__
    made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    if func.is_view or name in MOVES or not any(t.is_floating_point() for t in made):
        return 0.0
    read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    size = max(t.numel() for t in [*made, *read])
    return float(size * (2 if name in TWO else 1))


@dataclass(frozen=True)
class EditInput:
    """What an edit gets in its layer: the number of maps, and the layer's widths."""

    maps: int
    head_dim: int
    value_dim: int
    dim: int


def operations(edit: Edit, place: EditInput) -> Counted:
    """Returns the operations of an edit. A closed form costs nothing per cell; it is counted by
    token.

    Raises ``SoftmapError`` where the edit cannot run on a band of its own.
    """
    device = next((t.device for t in (*edit.parameters(), *edit.buffers())), torch.device("cpu"))
    if device.type == "meta":
        with suppress(Exception):  # it looks at numbers, or makes tensors elsewhere
            return _counted(edit, place, device)
    try:
        return _counted(_filled(edit), place, torch.device("cpu"))
    except Exception as error:
        name = type(edit).__name__
        raise SoftmapError(f"{name}: its operations cannot be counted: {reason(error)}") from error


def _filled(edit: Edit) -> Edit:
    """Returns the edit, or a copy with numbers on the CPU of one that has none or is on a GPU."""
    if all(t.device.type == "cpu" for t in (*edit.parameters(), *edit.buffers())):
        return edit
    made = copy.deepcopy(edit).to_empty(device="cpu")
    with torch.no_grad():
        for t in (*made.parameters(), *made.buffers()):
            t.fill_(0.5 if t.is_floating_point() else 0)
    return made


def _counted(edit: Edit, place: EditInput, device: torch.device) -> Counted:
    token = _slope(lambda tokens: _total(lambda: _tensors(edit, place, tokens, device)))
    closed = _closed(edit, place, device)
    if closed is not None:
        return Counted(0.0, token + _slope(closed))

    def edited(rows: int, keys: int) -> float:
        one, two = (_edit_of_a_band(edit, place, n, rows, keys, device) for n in (1, 2))
        return _total(two) - _total(one)

    return Counted(_mixed(edited), token)


def _total(run: Callable[[], Any]) -> float:
    with torch.no_grad(), _Watch() as watch:
        run()
    return watch.total


def _slope(cost: Callable[[int], float]) -> float:
    """Returns what one more token costs."""
    return (cost(2 * SIDE) - cost(SIDE)) / SIDE


def _mixed(cost: Callable[[int, int], float]) -> float:
    """Returns what one more cell costs, apart from its row and its key."""
    n, m = SIDE, 2 * SIDE
    return (cost(m, m) - cost(m, n) - cost(n, m) + cost(n, n)) / n**2


def _tensors(
    edit: Edit, place: EditInput, tokens: int, device: torch.device, batch: int = 1
) -> Tensors:
    """Returns all tensors that the edit makes for this number of tokens."""
    x = torch.ones(batch, tokens, place.dim, device=device)
    q = torch.ones(batch, place.maps, tokens, place.head_dim, device=device)
    return edit(x, q, q)  # type: ignore[no-any-return]


def _closed(edit: Edit, place: EditInput, device: torch.device) -> Callable[[int], float] | None:
    """Returns what an output edit or a closed form costs per token; None where the edit has
    none.
    """

    def wide(tokens: int, width: int) -> Tensor:
        return torch.ones(1, place.maps, tokens, width, device=device)

    def closed(tokens: int) -> float:
        t = bag(_tensors(edit, place, tokens, device)._replace(key={}))
        o = wide(tokens, place.value_dim)
        at = torch.arange(tokens, device=device)[None]
        rows = Rows(at, lambda: at + 1, lambda: o, o[..., 0], o if edit.needs_mean else None)
        if edit.stage == "output":
            return _total(lambda: edit.edit(o, rows, t))  # type: ignore[arg-type]
        if edit.stage == "normaliser":
            return _total(lambda: o * edit.fold_softmax(rows, t)[..., None])
        if edit.folds_output:
            return _total(lambda: edit.fold_output(o, rows, t))
        return _total(lambda: edit.fold_query(wide(tokens, place.head_dim), rows, t))

    return closed if has_form(edit) else None


def _edit_of_a_band(
    edit: Edit, place: EditInput, batch: int, rows: int, keys: int, device: torch.device
) -> Callable[[], Any]:
    """Run the edit on a band of this many sequences whose rows see all keys, as a backend does."""
    halo, pad = edit.halo, edit.pad
    m = torch.ones(batch, place.maps, rows + halo, keys + pad, device=device)
    cols = torch.arange(keys + pad, device=device)
    at = torch.arange(keys, keys + rows + halo, device=device)
    band = make_band(at[None], cols[None], at, cols, None, None)
    t = _tensors(edit, place, max(rows + halo, keys), device, batch)
    query = {n: a[:, : rows + halo] for n, a in t.query.items()}
    key = {n: a[:, :keys] for n, a in t.key.items()}
    given = bag(pad_keys(t._replace(query=query, key=key), pad))
    return lambda: edit.edit(m, band, given)
