"""The fewest operations and bytes of an exact algorithm that never stores a map.

Operations are counted by unit: products (the matrix units), vector (elementwise), exp. A
multiply-add counts 2; only cells that a row sees count. Machines differ in one point:

- ``streamed`` (a GPU): a tile of the map is all that fits near the units. Where a weights edit
  mixes heads, the softmax statistics take a pass of their own, and so does the backward row sum.
- ``held`` (a CPU): a band of whole rows stays in cache, so one pass does in either direction.

Work per token (the edits' factors, projections, norms) is not the map's and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from softmap.bench.case import Problem
from softmap.bench.work import Work, edit_work
from softmap.maps import chain


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


def _sum(parts: Iterable[Work]) -> Work:
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
