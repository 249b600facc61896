"""A candidate's result for one case, and the choice of candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from softmap.bench.candidates import Candidate, Runner, candidates
from softmap.bench.case import Problem
from softmap.bench.failure import is_out_of_memory, tried_bytes
from softmap.bench.parity import Parity
from softmap.errors import SoftmapError, nearest, reason
from softmap.ops import BACKENDS

NOT_YET = "not measured"


@dataclass
class CandidateResult:
    """The result of a candidate: not measured yet, refused, wrong, failed, out of memory, or timed.

    Attributes:
        checked_bytes: peak memory at the size of the parity check.
        tried_bytes: the bytes of the allocation that failed.
        plain_error: the error of the plain map's output, at the size of the parity check.
    """

    candidate: Candidate
    problem: Problem
    status: str = NOT_YET
    reason: str = ""
    parity: Parity | None = None
    plain_error: float = 0.0
    runner: Runner | None = None
    first_seconds: float | None = None
    checked_bytes: int = 0
    peak_bytes: int | None = None
    tried_bytes: int | None = None
    seconds: list[float] = field(default_factory=list)
    _leaves: list[Tensor] | None = None

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name

    @property
    def alive(self) -> bool:
        """Whether the candidate is still to be measured."""
        return self.status == NOT_YET

    def end(self, status: str, reason: str) -> None:
        """Record that there will be no speed, and why."""
        self.status, self.reason, self.runner, self._leaves = status, reason, None, None
        self.seconds = []

    def guard(self, run: Callable[[], Any]) -> None:
        """Call ``run`` and confine its errors to this candidate; the others continue."""
        try:
            run()
        except Exception as error:
            if is_out_of_memory(error):
                self.tried_bytes = self.tried_bytes or tried_bytes(error)
                self.end("out of memory", reason(error).split(": ", 1)[-1])
            else:
                self.end("failed", reason(error))

    def leaves(self) -> list[Tensor]:
        """Returns the candidate's own inputs, made once."""
        if self._leaves is None:
            assert self.runner is not None
            adapted = self.runner.adapt([t.detach() for t in self.problem.leaves])
            own = [t.detach() for t in adapted]
            if self.problem.case.gradients:
                for leaf, learnt in zip(own, self.problem.learnt, strict=True):
                    leaf.requires_grad_(learnt)
            self._leaves = own
        return self._leaves

    def forward(self) -> Tensor:
        """Run the forward pass; returns the output."""
        assert self.runner is not None
        with torch.set_grad_enabled(self.problem.case.gradients):
            return self.runner.run(self.leaves())

    def backward(self, out: Tensor) -> Any:
        """Run the backward pass; returns the gradients."""
        wanted = [t for t in self.leaves() if t.requires_grad]
        upstream = self.problem.upstream.to(out.dtype)
        return torch.autograd.grad(out, wanted, upstream, allow_unused=True)

    def step(self) -> Tensor:
        """Run forward, and backward if the case has gradients; returns the output."""
        out = self.forward()
        if self.problem.case.gradients:
            self.backward(out)
        return out


def choose_candidates(impls: Sequence[str], peers: Sequence[str]) -> list[Candidate]:
    """Returns our candidates named in ``impls``, and peers whose names begin with one of ``peers``.

    Empty means all; SDPA, the baseline, is always included. Raises ``SoftmapError`` for an unknown
    name.
    """
    found = candidates()
    for impl in impls:
        if impl not in BACKENDS:
            known, hint = ", ".join(BACKENDS), nearest(impl, BACKENDS)
            raise SoftmapError(f"--impl: expected some of {known}, found {impl!r}{hint}")
    names = [c.name for c in found if not c.ours and not c.plain]
    for peer in peers:
        if peer != "none" and not any(peer and n.startswith(peer) for n in names):
            known = ", ".join(names)
            raise SoftmapError(f"--peers: expected none or some of {known}, found {peer!r}")
    return [c for c in found if _wanted(c, impls, peers)]


def _wanted(c: Candidate, impls: Sequence[str], peers: Sequence[str]) -> bool:
    if c.ours:
        return not impls or c.name in impls
    return c.plain or not peers or any(c.name.startswith(p) for p in peers)
