"""The interface of what can be timed. Adding a peer is one class in one file of this folder."""

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
    """A candidate prepared for one problem.

    Attributes:
        run: from its own inputs to (B, H', T, d'), differentiable.
        adapt: from the problem's leaves to the candidate's own inputs, differentiable, so that
            gradients are compared in our layout; not timed.
    """

    run: Callable[[Leaves], Tensor]
    adapt: Callable[[Leaves], Leaves] = _same


class Candidate(ABC):
    """One way to compute a case.

    Attributes:
        name: its name in tables.
        ours: whether it is one of ``softmap.ops.BACKENDS``.
        plain: whether it computes plain attention of the same sizes, the baseline, whatever the
            case's variant.
        dense: whether its memory grows with T x T.
    """

    name: str
    ours: bool = False
    plain: bool = False
    dense: bool = False

    @abstractmethod
    def applies(self, problem: Problem) -> str | None:
        """Returns why it cannot run the problem, or None."""

    @abstractmethod
    def prepare(self, problem: Problem) -> Runner:
        """Returns the runner of a problem that applies; called once for each."""

    @classmethod
    def all(cls) -> list[Candidate]:
        """Returns the instances of the class, by default one."""
        return [cls()]
