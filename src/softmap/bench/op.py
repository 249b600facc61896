"""``softmap bench op``: one attention call, every candidate in interleaved rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import psutil
import torch
from torch import Tensor

from softmap.bench import parity
from softmap.bench.candidates import Candidate
from softmap.bench.case import Case, make_problem
from softmap.bench.clock import Clock
from softmap.bench.entry import CandidateResult
from softmap.bench.failure import TooLarge, size
from softmap.bench.stats import shuffled
from softmap.errors import SoftmapError
from softmap.lab.peak_memory import PeakMemory
from softmap.lab.speed import synchronize
from softmap.ops import choose

Say = Callable[[str], None]
MIN_ROUNDS = 3
SETTLED = 1.0  #: seconds; a first call that takes longer is warm-up enough
#: Share of free memory that a dense map may need by estimate: swapping would stop the machine.
FULL = 0.8


class OpBenchmark:
    """The measurement of one case, whose entries can be read at any moment, even after Ctrl-C."""

    def __init__(
        self, case: Case, chosen: Sequence[Candidate], named: Sequence[str], say: Say
    ) -> None:
        """Raise ``SoftmapError`` if one of the backends ``named`` by the user refuses."""
        self.case = case
        self._say = lambda text: say(f"{case.variant} {case.title}: {text}")
        problem, plain = make_problem(case), make_problem(case.plain())
        self.entries = [CandidateResult(c, plain if c.plain else problem) for c in chosen]
        self.auto = choose(problem.call)
        self._device = torch.device(case.device)
        for entry in self.entries:
            self._refuse(entry, named)

    def _refuse(self, entry: CandidateResult, named: Sequence[str]) -> None:
        why = entry.candidate.applies(entry.problem)
        if why is None:
            return
        if entry.candidate.ours and entry.name in named:
            raise SoftmapError(f"impl={entry.name!r} cannot run {self.case.variant}: {why}")
        entry.end("refused", why)

    def measure(self, rounds: int, seconds: float) -> None:
        """Check parity, warm up, time interleaved rounds, and measure memory.

        Args:
            seconds: bound of a candidate's rounds.
        """
        self._check()
        for entry in self._alive():
            self._say(f"warm-up of {entry.name}")
            entry.guard(lambda e=entry: self._start(e))  # type: ignore[misc]
            self._tidy()
        self._time(rounds, seconds)
        for entry in self._alive():
            if entry.seconds:
                self._say(f"memory of {entry.name}")
                entry.guard(lambda e=entry: self._peak(e))  # type: ignore[misc]

    def _check(self) -> None:
        truths: dict[str, parity.Truth] = {}
        for entry in self._alive():
            variant = entry.problem.case.variant
            if variant not in truths:
                self._say(f"float64 reference of {variant}")
                maps = entry.problem.call.heads.maps
                small = parity.checked_size(entry.problem.case, maps)
                truths[variant] = parity.truth(make_problem(small))
            self._say(f"parity of {entry.name}")
            entry.guard(lambda e=entry, t=truths[variant]: self._parity(e, t))  # type: ignore[misc]
            self._tidy()

    def _parity(self, entry: CandidateResult, truth: parity.Truth) -> None:
        with PeakMemory(self._device) as memory:
            found = parity.check(entry.candidate.prepare(truth.problem), truth)
            memory.sample()
        entry.parity, entry.checked_bytes = found, memory.peak
        entry.plain_error = truth.plain["output"]
        if not found.ok:
            entry.end("wrong", found.summary())

    def _start(self, entry: CandidateResult) -> None:
        self._foresee(entry)
        entry.runner = entry.candidate.prepare(entry.problem)
        begin = time.perf_counter()
        out = entry.step()
        synchronize(self._device)
        entry.first_seconds = time.perf_counter() - begin
        self._last_rows(entry, out)
        del out
        if entry.alive and entry.first_seconds < SETTLED:
            entry.step()

    def _foresee(self, entry: CandidateResult) -> None:
        """Estimate a dense map's memory first, since a CPU would kill the process instead of
        raising.
        """
        assert entry.parity is not None
        checked = entry.parity.batch * entry.parity.tokens**2
        if not entry.candidate.dense or self._device.type != "cpu" or self.case.cells <= checked:
            return
        need = entry.checked_bytes * self.case.cells / checked
        free = psutil.virtual_memory().available
        if need > FULL * free:
            entry.tried_bytes = int(need)
            raise TooLarge(f"would need about {size(need)}, {size(free)} are free")

    def _last_rows(self, entry: CandidateResult, out: Tensor) -> None:
        """Check the last rows at the timed length too, where parity was checked at a shorter
        one.
        """
        assert entry.parity is not None
        if (entry.parity.batch, entry.parity.tokens) == (self.case.batch, self.case.tokens):
            return
        if not bool(torch.isfinite(out).all()):
            entry.end("wrong", f"not finite at T={self.case.tokens}")
            return
        error = parity.check_last_rows(out.detach(), entry.problem, entry.plain_error)
        entry.parity.errors["output, last rows at the timed size"] = error
        if not error.ok:
            entry.end("wrong", entry.parity.summary())

    def _time(self, rounds: int, seconds: float) -> None:
        clock, took = Clock(self._device), {e.name: 0.0 for e in self.entries}
        for n in range(rounds):
            self._say(f"round {n + 1} of {rounds}")
            for entry in shuffled(self._alive(), n):
                if n < MIN_ROUNDS or took[entry.name] < seconds:
                    begin = time.perf_counter()
                    entry.guard(lambda e=entry: e.seconds.append(self._once(e, clock)))  # type: ignore[misc]
                    took[entry.name] += time.perf_counter() - begin

    def _once(self, entry: CandidateResult, clock: Clock) -> float:
        if self.case.direction == "backward":
            return clock.seconds(entry.backward, entry.forward)
        return clock.seconds(lambda _: entry.step())

    def _peak(self, entry: CandidateResult) -> None:
        with PeakMemory(self._device) as memory:
            entry.step()
            synchronize(self._device)
            memory.sample()
        entry.peak_bytes = memory.peak

    def _alive(self) -> list[CandidateResult]:
        return [e for e in self.entries if e.alive]

    def _tidy(self) -> None:
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
