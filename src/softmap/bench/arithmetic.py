"""The fewest operations and bytes of an exact algorithm that never stores a map.

Operations are counted by unit: products (the matrix units), vector (elementwise), exp. A multiply-add
counts 2; only cells that a row sees count. Two kinds of machine differ in one point:

- ``streamed`` (a GPU): a tile of the map is all that fits near the units. Where a weights edit mixes
  heads, the softmax statistics take a pass of their own, and so does the backward row sum.
- ``held`` (a CPU): a band of whole rows stays in cache, so one pass does in either direction.

Work per token (the edits' factors, projections, norms) is not the map's and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

from softmap.bench.case import Problem
from softmap.maps import Edit, chain
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


@dataclass(frozen=True)
class EditWork:
    """Of one edit at one (i, j), all heads: forward, adjoint for the map, for its own tensors."""

    forward: Work = Work()
    to_map: Work = Work()
    to_own: Work = Work()

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


def mean_keys(queries: int, keys: int, window: int | None) -> float:
    """Mean visible keys of the last ``queries`` of ``keys`` rows."""
    widest = keys if window is None else min(window, keys)
    first = keys - queries + 1
    rising = max(0, min(widest, keys) - first)  # rows that see fewer than ``widest``
    return (rising * (first + widest - 1) / 2 + (queries - rising) * widest) / queries


def work(problem: Problem, *, held: bool) -> Work:
    """Of the case in its direction, maps and memory."""
    call, case = problem.call, problem.case
    cells = call.batch * call.queries * mean_keys(call.queries, call.keys, call.window)
    one = _Cell(problem, held)
    forward = one.forward().times(cells) + Work(bytes=_forward_bytes(problem))
    if case.direction == "forward":
        return forward
    backward = one.backward().times(cells) + Work(bytes=_backward_bytes(problem))
    return backward if case.direction == "backward" else forward + backward


class _Cell:
    """Work at one visible (i, j), all heads, streamed or held."""

    def __init__(self, problem: Problem, held: bool) -> None:
        call = problem.call
        maps, outputs = call.heads.maps, call.heads.outputs
        d, width = call.q.shape[-1], call.v.shape[-1]
        self.held = held
        weights = [e for _, e in chain(call.edits, "weights")]
        self.mixes = any(not e.folds_output for e in weights)
        self.scores = Work(products=2.0 * maps * d)
        # Streamed, a pair's two maps meet their values before they can be subtracted.
        values = outputs if held or self.mixes else maps
        self.values = Work(products=2.0 * values * width)
        self.grads = Work(products=2.0 * outputs * width)
        self.maps, self.outputs = maps, outputs
        self.subtract = Work(vector=2.0 * outputs) if maps != outputs else Work()
        self.pre = [edit_work(e, call.batch) for _, e in chain(call.edits, "scores")]
        self.post = [edit_work(e, call.batch) for e in weights if not e.folds_output]

    def forward(self) -> Work:
        """One pass; a second one (statistics first) where heads mix after the softmax."""
        once = self._scores() + _sum(e.forward for e in self.post) + self.values
        if self.held or not self.mixes:
            return once + self._softmax() + (self.subtract if self.held else Work())
        return once + self._probabilities() + self._scores() + self._softmax()

    def backward(self) -> Work:
        """Recomputed from q, k, v and the saved statistics."""
        again = self._scores() + self._probabilities() + self.grads  # P and dP
        adjoint = _sum(e.to_map for e in self.post)
        total = again + adjoint + _sum(e.to_own for e in self.post)
        total += _sum(e.forward for e in self.post) + self.grads  # A' for dV
        total += self.subtract.times(2)
        total += Work(vector=2.0 * self.maps)  # dS = P (dP - delta)
        total += _sum(e.to_map + e.to_own for e in self.pre)
        total += self.scores.times(2)  # dQ, dK
        if self.mixes:
            row_sum = Work(vector=2.0 * self.maps)  # not dO . O of a head any more
            total += row_sum if self.held else again + adjoint + row_sum
        return total

    def _scores(self) -> Work:
        return self.scores + _sum(e.forward for e in self.pre)

    def _softmax(self) -> Work:
        """Scale and subtract as one multiply-add, maximum, sum; one exp."""
        return Work(vector=4.0 * self.maps, exp=1.0 * self.maps)

    def _probabilities(self) -> Work:
        return Work(vector=2.0 * self.maps, exp=1.0 * self.maps)


def _sum(parts) -> Work:  # type: ignore[no-untyped-def]
    return sum(parts, Work())


def _inputs(problem: Problem) -> float:
    return float(sum(t.numel() * t.element_size() for t in problem.leaves))


def _output(problem: Problem) -> float:
    call = problem.call
    size = call.batch * call.heads.outputs * call.queries * call.v.shape[-1]
    return float(size * call.q.element_size())


def _statistics(problem: Problem) -> float:
    """One float32 logarithm a row and map."""
    call = problem.call
    return 4.0 * call.batch * call.heads.maps * call.queries


def _forward_bytes(problem: Problem) -> float:
    """Inputs once, output once; statistics for the backward pass where there is one."""
    kept = _statistics(problem) if problem.case.gradients else 0.0
    return _inputs(problem) + _output(problem) + kept


def _backward_bytes(problem: Problem) -> float:
    """Inputs, output, its gradient and the statistics in; a gradient of each input out."""
    return 2 * _inputs(problem) + 2 * _output(problem) + _statistics(problem)
