"""A measured case as plain values, for JSON and for tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from softmap.bench.entry import CandidateResult
from softmap.bench.op import OpBenchmark
from softmap.bench.stats import ratios, spread


def record(run: OpBenchmark) -> dict[str, Any]:
    """Returns the case, and a row for every candidate in the order of the run."""
    rows = [_row(run.entries, entry) for entry in run.entries]
    return {**asdict(run.case), "auto": run.auto, "rows": rows}


def _row(entries: list[CandidateResult], entry: CandidateResult) -> dict[str, Any]:
    """Returns a candidate's row, without a speed if its check failed."""
    found: dict[str, Any] = {
        "candidate": entry.name,
        "ours": entry.candidate.ours,
        "plain": entry.candidate.plain,
        "status": "timed" if entry.seconds else entry.status,
        "reason": entry.reason,
        "parity": None if entry.parity is None else entry.parity.record(),
    }
    if entry.status == "out of memory":
        found |= {"tried_bytes": entry.tried_bytes, **_smaller(entries, entry)}
    return found | (_speed(entries, entry) if entry.seconds else {})


def _speed(entries: list[CandidateResult], entry: CandidateResult) -> dict[str, Any]:
    base = _baseline(entries)
    return {
        "seconds": spread(entry.seconds),
        "first_seconds": entry.first_seconds,
        "over_sdpa": None if base is None else ratios(entry.seconds, base.seconds),
        "sdpa": None if base is None else base.name,
        "peak_bytes": entry.peak_bytes,
    }


def _baseline(entries: list[CandidateResult]) -> CandidateResult | None:
    """Returns SDPA's fastest backend of this run."""
    plain = [e for e in entries if e.candidate.plain and e.seconds]
    return min(plain, key=lambda e: spread(e.seconds)["median"], default=None)


def _smaller(entries: list[CandidateResult], entry: CandidateResult) -> dict[str, Any]:
    """Returns the candidate of the same maths that took the least memory in this run."""
    same = [e for e in entries if e.candidate.plain == entry.candidate.plain]
    sizes = {e.name: e.peak_bytes for e in same if e.peak_bytes is not None}
    least = min(sizes, key=sizes.__getitem__, default=None)
    return {} if least is None else {"instead": least, "instead_bytes": sizes[least]}
