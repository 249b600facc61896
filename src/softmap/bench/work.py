"""What one edit costs at one (i, j): operations by unit, forward and both adjoints.

A multiply-add counts 2. An edit that is not listed costs what it declares, as vector operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

from softmap.maps import Edit
from softmap.variants.biases import Alibi, Bias, Fire
from softmap.variants.dape import ScoreConv
from softmap.variants.dcmha import Compose
from softmap.variants.talking_heads import HeadMix


class Work(NamedTuple):
    """Operations by unit; a count of exp is a count of results. bytes: to and from memory."""

    products: float = 0.0
    vector: float = 0.0
    exp: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: object) -> Work:
        assert isinstance(other, Work)
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Work:
        return Work(*(factor * a for a in self))


NOTHING = Work()


@dataclass(frozen=True)
class EditWork:
    """Of one edit at one (i, j), all heads: forward, adjoint for the map, for its own tensors."""

    forward: Work = NOTHING
    to_map: Work = NOTHING
    to_own: Work = NOTHING

    @classmethod
    def bilinear(cls, forward: Work) -> EditWork:
        """Linear in the map and in its tensors: each adjoint costs what the forward costs."""
        return cls(forward, forward, forward)


@singledispatch
def edit_work(edit: Edit, batch: int) -> EditWork:
    """Of any edit: what it declares, as vector operations; nothing where it has a closed form."""
    return EditWork.bilinear(Work(vector=edit.flops_per_cell()))


@edit_work.register
def _(edit: HeadMix, batch: int) -> EditWork:
    return EditWork.bilinear(Work(products=2.0 * edit.mix.numel()))


@edit_work.register
def _(edit: Compose, batch: int) -> EditWork:
    static = 0.0 if edit.static is None else 2.0 * edit.heads**2
    return EditWork.bilinear(Work(products=static, vector=edit.flops_per_cell() - static))


@edit_work.register
def _(edit: Bias, batch: int) -> EditWork:
    """A function of h and i - j: T values a head, tabled; each cell adds one. Sums in backward."""
    add = Work(vector=float(edit.heads))
    return EditWork(add, Work(), add)


@edit_work.register
def _(edit: Alibi, batch: int) -> EditWork:
    return EditWork(Work(vector=2.0 * edit.heads))  # a multiply-add; fixed slopes


@edit_work.register
def _(edit: Fire, batch: int) -> EditWork:
    """Depends on i and j, not on the sequence: its MLP runs once for the batch."""
    hidden, heads = edit.up.out_features, edit.heads
    mlp = Work(2.0 * hidden * heads / batch, 3.0 * hidden / batch + heads, 1.0 / batch)
    return EditWork(mlp, Work(), mlp.times(2))


@edit_work.register
def _(edit: ScoreConv, batch: int) -> EditWork:
    """The score channels for every sequence; the bias channels once for the batch."""
    hidden, channels, _, taps = edit.up.weight.shape
    heads = edit.heads
    own = Work(4.0 * heads * hidden * taps, 3.0 * hidden + 2.0 * heads)
    if edit.bias is None:
        return EditWork.bilinear(own)
    shared = Work(2.0 * (channels - heads) * hidden * taps / batch)
    bias = edit_work(edit.bias, batch)
    forward = own + shared + bias.forward.times(1.0 / batch)
    return EditWork(forward, own, own + shared + bias.to_own.times(1.0 / batch))
