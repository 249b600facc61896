"""Checks that a candidate computes what it is timed for: output and gradients, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import torch
from torch import Tensor

from softmap.bench.candidates import Runner
from softmap.bench.case import DTYPES, Case, Problem
from softmap.ops import reference
from softmap.ops.call import Call
from softmap.ops.output import apply_output
from softmap.ops.precision import FEW, GRADIENT, OUTPUT
from softmap.ops.yardstick import ZERO, eager

# Relative errors below these are rounding, even where the plain map happens to be more exact.
FLOOR = {"float32": 1e-5, "bfloat16": 2**-8, "float16": 2**-11}
#: Cells (batch x maps x T x T) of the dense float64 map that parity is checked on at most.
CELLS = {"cpu": 2**23, "cuda": 2**26}
#: float64 numbers per cell that autograd keeps for the most expensive edit (DAPE), roughly.
NUMBERS_A_CELL = 64
ROWS = 16  #: last rows that are checked at the timed length too
POOLED = "gradients of few numbers"


@dataclass(frozen=True)
class Deviation:
    """The deviation of one result: RMS of the error over that of the truth, and largest over
    largest.
    """

    rms: float
    max: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the error is within what is allowed."""
        return self.rms <= self.allowed  # false for NaN


@dataclass(frozen=True)
class Parity:
    """Deviations by name, ``output`` and then the gradients.

    Attributes:
        batch, tokens: the checked sizes.
    """

    batch: int
    tokens: int
    errors: dict[str, Deviation] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every error is within what is allowed."""
        return all(e.ok for e in self.errors.values())

    @property
    def worst(self) -> str:
        """The name of the result that is furthest beyond its allowance."""

        def excess(name: str) -> float:
            ratio = self.errors[name].rms / self.errors[name].allowed
            return math.inf if math.isnan(ratio) else ratio

        return max(self.errors, key=excess)

    def summary(self) -> str:
        """Returns one line on the worst result."""
        e = self.errors[self.worst]
        return f"{self.worst}: relative error {e.rms:.1e}, allowed {e.allowed:.1e}"

    def largest(self, output: bool) -> float | None:
        """Returns the largest relative RMS error of the output, or of all gradients."""
        found = [e.rms for n, e in self.errors.items() if n.startswith("output") == output]
        return max(found, default=None)

    def record(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Truth:
    """The results that all candidates of one problem are compared with.

    Attributes:
        exact: results in float64.
        plain: errors of the plain eager map in the case's own dtype.
    """

    problem: Problem
    exact: dict[str, Tensor]
    plain: dict[str, float]


def checked_size(case: Case, maps: int) -> Case:
    """Returns the case, with fewer sequences and then fewer tokens if its dense float64 map is
    too large.
    """
    kind = torch.device(case.device).type
    free = torch.cuda.mem_get_info()[0] if kind == "cuda" else psutil.virtual_memory().available
    most = min(CELLS.get(kind, CELLS["cpu"]), free // 2 // (8 * NUMBERS_A_CELL))
    while case.cells * maps > most and case.batch > 2:
        case = case.resized(batch=case.batch // 2)
    while case.cells * maps > most and case.tokens > 16:
        case = case.resized(tokens=case.tokens // 2)
    return case


def truth(problem: Problem) -> Truth:
    """Returns the float64 results, and the errors of a plain map in the case's own dtype."""
    exact = results(problem, lambda leaves: _run(reference.run, problem, leaves), torch.float64)
    plain = results(problem, lambda leaves: _run(eager, problem, leaves))
    return Truth(problem, exact, {n: e.rms for n, e in _errors(plain, exact, {}, 0.0).items()})


def check(runner: Runner, truth: Truth) -> Parity:
    """Returns the candidate's errors and allowances: twice the plain map's, three times for
    gradients.
    """
    found = results(truth.problem, lambda leaves: runner.run(runner.adapt(leaves)))
    case = truth.problem.case
    errors = _errors(found, truth.exact, truth.plain, FLOOR[case.dtype])
    return Parity(case.batch, case.tokens, errors)


@torch.no_grad()
def check_last_rows(out: Tensor, problem: Problem, plain: float) -> Deviation:
    """Returns the deviation of an output's last rows at the timed length.

    The whole dense map need not fit there.

    Args:
        plain: the plain map's error at the checked length.
    """
    rows = min(ROWS, problem.call.queries)
    part = problem.last_rows(rows)
    exact = _run(reference.run, part, [t.double() for t in part.leaves])
    return _error(out[:, :, -rows:], exact, OUTPUT * max(plain, FLOOR[problem.case.dtype]))


def results(
    problem: Problem, run: Callable[[Sequence[Tensor]], Tensor], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Returns the output and, if the case has gradients, those of every leaf, by name."""
    leaves = [t.detach().to(dtype or t.dtype).clone() for t in problem.leaves]
    if not problem.case.gradients:
        with torch.no_grad():
            return {"output": run(leaves)}
    wanted = [n for n, learnt in enumerate(problem.learnt) if learnt]
    for n in wanted:
        leaves[n].requires_grad_()
    out = run(leaves)
    upstream = problem.upstream.to(out.dtype)
    grads = torch.autograd.grad(out, [leaves[n] for n in wanted], upstream, allow_unused=True)
    names = [f"d {problem.names[n]}" for n in wanted]
    found = {name: g for name, g in zip(names, grads, strict=True) if g is not None}
    return {"output": out.detach(), **found}


def _run(backend: Callable[[Call], Tensor], problem: Problem, leaves: Sequence[Tensor]) -> Tensor:
    call = problem.at(leaves)
    with torch.autocast(call.q.device.type, enabled=False):
        return apply_output(backend(call), call)


def _errors(
    found: dict[str, Tensor], exact: dict[str, Tensor], plain: dict[str, float], floor: float
) -> dict[str, Deviation]:
    """Returns errors by name.

    Results of few numbers are judged together, since a single one is sometimes right by chance, in
    the plain map too.
    """
    errors: dict[str, Deviation] = {}
    few: list[Deviation] = []
    for name, true in exact.items():
        if true.norm() <= ZERO:
            continue
        times = OUTPUT if name.startswith("output") else GRADIENT
        key = name if true.numel() >= FEW or name == "output" else POOLED
        allowed = times * max(plain.get(key, 0.0), floor)
        missing = torch.full_like(true, torch.nan)
        error = _error(found.get(name, missing), true, allowed)
        if key == POOLED:
            few.append(error)
        else:
            errors[name] = error
    if few:
        errors[POOLED] = _pooled(few)
    return errors


def _pooled(few: list[Deviation]) -> Deviation:
    mean = math.sqrt(sum(e.rms**2 for e in few) / len(few))
    return Deviation(mean, max(e.max for e in few), few[0].allowed)


def _error(got: Tensor, true: Tensor, allowed: float) -> Deviation:
    off = got.double() - true
    return Deviation(
        float(off.norm() / true.norm()), float(off.abs().max() / true.abs().max()), allowed
    )


assert set(FLOOR) == set(DTYPES)
