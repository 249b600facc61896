"""What can be timed. Adding a peer is one class in one file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from softmap.bench.case import Problem

Leaves = Sequence[Tensor]


def _same(leaves: Leaves) -> Leaves:
    return leaves


@dataclass(frozen=True)
class Runner:
    """A candidate at work on one problem.

    Attributes:
        run: own inputs in, (B, H', T, d') out, differentiable.
        adapt: the problem's leaves to the candidate's own inputs, differentiable, so that gradients
            are compared in our layout; not timed.
    """

    run: Callable[[Leaves], Tensor]
    adapt: Callable[[Leaves], Leaves] = _same


class Candidate(ABC):
    """One way to compute a case.

    Attributes:
        name: in tables.
        ours: one of ``softmap.ops.BACKENDS``.
        plain: it computes plain attention of the same sizes, the yardstick, whatever the case's
            variant.
        dense: its memory grows with T x T.
    """

    name: str
    ours: bool = False
    plain: bool = False
    dense: bool = False

    @abstractmethod
    def applies(self, problem: Problem) -> str | None:
        """Why it cannot run the problem, or None."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Runner:
        """Called once for each problem that applies."""

    @classmethod
    def all(cls) -> list[Candidate]:
        """The instances of the class: one, unless it says otherwise."""
        return [cls()]
