"""softmap's own backends: all of ``ops.BACKENDS``."""

from __future__ import annotations

from torch import Tensor

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem, run_backend
from softmap.ops import BACKENDS


class Ours(Candidate):
    """One backend; ``reference`` is the dense eager form."""

    ours = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.dense = name == "reference"

    @classmethod
    def all(cls) -> list[Candidate]:
        """Returns a candidate for each backend."""
        return [cls(name) for name in BACKENDS]

    def applies(self, problem: Problem) -> str | None:
        """Returns why the backend refuses the problem, or None."""
        return BACKENDS[self.name].refuses(problem.call)  # type: ignore[no-any-return]

    def prepare(self, problem: Problem) -> Runner:
        """Returns the backend's run of the problem's call."""
        backend = BACKENDS[self.name]

        def run(leaves: Leaves) -> Tensor:
            return run_backend(backend, problem.at(leaves))

        return Runner(run)
