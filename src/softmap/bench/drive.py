"""Runs the cases that the flags ask for, prints and saves them; an interrupt keeps what was
measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from softmap.bench import decode, rows, step, text
from softmap.bench.case import PLAIN, SHORT, Case, Direction, Dtype, least_bytes
from softmap.bench.entry import choose_candidates
from softmap.bench.failure import is_out_of_memory, require
from softmap.bench.op import OpBenchmark
from softmap.bench.progress import Progress
from softmap.bench.save import ResultFile
from softmap.errors import SoftmapError, nearest, reason
from softmap.fields import check
from softmap.files import check_writable
from softmap.lab import recipe, workbench
from softmap.lab.names import split_values, split_variants
from softmap.ops import BACKENDS
from softmap.variants import load

if TYPE_CHECKING:
    from softmap.bench.commands import Decode, Op, Step

WRONG = 1
#: A candidate is recompiled for each case; dynamo would stop after eight.
MANY: dict[str, Any] = {"recompile_limit": 1 << 12, "accumulated_recompile_limit": 1 << 16}


def run_op(flags: Op, argv: Sequence[str]) -> int:
    """Run ``softmap bench op``; returns the exit status."""
    device = device_of(flags.device)
    cases = _cases(flags, str(device))
    chosen = choose_candidates(flags.impl, flags.peers)
    say = Progress()
    for case in cases:  # refusals come before anything is measured
        require(least_bytes(case), device, f"{case.variant} {case.title}")
        OpBenchmark(case.resized(tokens=min(case.tokens, 16), batch=1), chosen, flags.impl, say)
    _check_out(flags.out)
    report = ResultFile("op", argv, device, flags.out, rounds=flags.rounds)
    wrong: list[str] = []

    def measure(case: Case) -> None:
        run = OpBenchmark(case, chosen, flags.impl, say)
        try:
            run.measure(flags.rounds, flags.seconds)
        finally:
            found = rows.record(run)
            report.add(found)
            say.clear()
            print("\n".join(text.op_lines(found, case.title)), flush=True)
            wrong.extend(_wrong(found))

    with torch._dynamo.config.patch(MANY):
        status = _all(cases, measure, report)
    return status or _verdict(wrong)


def run_step(flags: Step, argv: Sequence[str]) -> int:
    """Run ``softmap bench step``; returns the exit status."""
    plan = recipe.load(flags.recipe, split_values(flags.set))
    if flags.variants:
        plan = recipe.with_variants(plan, _names(flags.variants))
    device, say = device_of(flags.device), Progress()
    run = step.StepBenchmark(plan, _impl(flags.impl), device, say)
    _check_out(flags.out)
    report = ResultFile("step", argv, device, flags.out, rounds=flags.rounds)
    return _one(run, lambda: run.measure(flags.rounds, flags.steps), report, say, text.step_lines)


def run_decode(flags: Decode, argv: Sequence[str]) -> int:
    """Run ``softmap bench decode``; returns the exit status."""
    device, say = device_of(flags.device), Progress()
    large = device.type == "cuda"
    defaults: dict[str, Any] = {
        "hidden_size": 2048 if large else 256, "heads": 16 if large else 8,
        "layers": 16 if large else 4, "prompt": 1024 if large else 256,
        "new": 128 if large else 64, "dtype": "bfloat16" if large else "float32",
        "lengths": (512, 2048, 8192) if large else (128, 512, 2048),
    }  # fmt: skip
    given = {name: getattr(flags, name) for name in defaults}
    given |= {name: value for name, value in defaults.items() if given[name] in (None, ())}
    given["dtype"] = _dtype(given["dtype"])
    sizes = decode.Sizes(batch=flags.batch, vocab=flags.vocab, **given)
    variants = list(dict.fromkeys([PLAIN, *_variants(flags.variants)]))
    run = decode.DecodeBenchmark(variants, sizes, _impl(flags.impl), device, say)
    _check_out(flags.out)
    report = ResultFile("decode", argv, device, flags.out, rounds=flags.rounds)
    return _one(run, lambda: run.measure(flags.rounds), report, say, text.decode_lines)


def _one(
    run: Any,
    measure: Callable[[], None],
    report: ResultFile,
    say: Progress,
    lines: Callable[..., Any],
) -> int:
    """Run whole models as a single case."""
    wrong: list[str] = []

    def measured_case(_: Any) -> None:
        try:
            measure()
        finally:
            found = run.record()
            report.add(found)
            say.clear()
            print("\n".join(lines(found)), flush=True)
            wrong.extend(f"{r['variant']}: {r['reason']}" for r in found["rows"] if r["reason"])

    return _all([run], measured_case, report) or _verdict(wrong)


def _all(cases: Sequence[Any], measure: Callable[[Any], None], report: ResultFile) -> int:
    """Measure all cases; returns 130 (143 after SIGTERM) where a signal ended it, else 0."""
    try:
        for case in cases:
            measure(case)
    except KeyboardInterrupt as stopped:
        place = f"in {report.out}" if report.out else "above"
        print(f"softmap: stopped; what was measured is {place}", file=sys.stderr)
        return 128 + getattr(stopped, "signal", 2)
    except Exception as error:
        if is_out_of_memory(error):
            raise SoftmapError(f"bench: out of memory: {reason(error)}; lower the sizes") from error
        raise
    return 0


def _verdict(wrong: Sequence[str]) -> int:
    for line in wrong:
        print(f"softmap: {line}", file=sys.stderr)
    return WRONG if wrong else 0


def _wrong(case: dict[str, Any]) -> list[str]:
    """Returns wrong results of any candidate, and failures of our own."""
    return [
        f"{case['variant']} T={case['tokens']}: {row['candidate']}: {text.untimed_reason(row)}"
        for row in case["rows"]
        if row["status"] == "wrong" or (row["status"] == "failed" and row["ours"])
    ]


def _cases(flags: Op, device: str) -> list[Case]:
    check("--direction", flags.direction, Direction)
    if not flags.tokens:
        raise SoftmapError("--tokens: expected at least one length, found none")
    sizes = ("batch", "heads", "kv_heads", "head_dim", "window", "direction")
    common: dict[str, Any] = {name: getattr(flags, name) for name in sizes}
    common |= {"dtype": _dtype(flags.dtype), "device": device}
    return [
        Case(variant=variant, tokens=tokens, **common)
        for variant in _variants(flags.variants)
        for tokens in flags.tokens
    ]


def _variants(given: Sequence[str]) -> list[str]:
    """Returns canonical names; raises ``SoftmapError`` for an unknown one, and if there is none."""
    return [load(name).label for name in _names(given)]


def _names(given: Sequence[str]) -> list[str]:
    found = split_variants(given)
    if not found:
        raise SoftmapError("bench: expected at least one variant, found none")
    return found


def _impl(name: str) -> str:
    if name not in ("auto", *BACKENDS):
        known = ", ".join(["auto", *BACKENDS])
        raise SoftmapError(
            f"--impl: expected one of {known}, found {name!r}{nearest(name, BACKENDS)}"
        )
    return name


def _dtype(name: str) -> Any:
    found = SHORT.get(name, name)
    check("--dtype", found, Dtype)
    return found


def _check_out(out: Path | None) -> None:
    if out is not None:
        check_writable(out)


def device_of(name: str) -> torch.device:
    """Returns the device that ``--device`` names."""
    try:
        return workbench.choose_device(name)
    except SoftmapError as error:
        raise SoftmapError(str(error).replace("training.device", "--device")) from None
