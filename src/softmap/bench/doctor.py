"""``softmap doctor``: what this machine has, and whether its kernels compute correctly."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

import softmap
from softmap.bench.case import Case, make_problem
from softmap.bench.drive import WRONG, device_of
from softmap.bench.save import FORMAT, environment
from softmap.bench.text import columns
from softmap.errors import SoftmapError
from softmap.files import check_writable
from softmap.files.cache import folder
from softmap.lab import files
from softmap.ops import make_call, native, precision, qualify, triton
from softmap.ops.call import Call
from softmap.ops.native import build
from softmap.ops.qualify import record
from softmap.ops.qualify.trial import Sizes, tried

if TYPE_CHECKING:
    from softmap.bench.commands import Doctor

# One variant for each kernel, and chains of several.
VARIANTS = (
    "dcmha", "dcmha(static=true)", "talking-heads", "diff", "diff2", "sas", "diff+dcmha",
    "alibi", "kerple", "fire", "temperature",
    "dape", "dape(version=1)", "dape(bias=alibi)", "dape(bias=fire)",
)  # fmt: skip
LARGE = ("dcmha", "diff", "dape")
DECODED = ("dcmha", "diff", "dape", "kerple")
MOST_JOBS = 8  # processes, each with a context of its own on the GPU
SMALL = SimpleNamespace(run=lambda call: native.run(call), trials=lambda kind: [(33, 33), (48, 48)])


@dataclass
class DoctorRow:
    """A kernel and shape with its verdict.

    Attributes:
        verdict: right, wrong, refused or not tried.
        error: the largest error relative to what is allowed.
    """

    backend: str
    variant: str
    shape: str
    verdict: str
    why: str | None
    error: float | None
    seconds: float
    errors: Sizes

    def cells(self) -> list[str]:
        """Returns the row's cells for the printed table."""
        error = "" if self.error is None else f"{self.error:.2f}"
        seconds = f"{self.seconds:.1f}" if self.seconds else ""
        return [self.backend, self.variant, self.shape, self.verdict, error, seconds]


def run_doctor(flags: Doctor, argv: Sequence[str]) -> int:
    """Print the findings; returns 1 where a kernel is wrong, else 0."""
    device, mode = device_of(flags.device), qualify.mode()
    if flags.json is not None:
        check_writable(flags.json)
    found = {
        "format": FORMAT,
        "kind": "doctor",
        "command": "softmap " + shlex.join(argv),
        "softmap": softmap.__version__,
        **environment(device),
        "gpu": record.machine(device) if device.type == "cuda" else None,
        "native": build.missing(),
        "triton": _triton_missing(device),
        "cache": str(folder()),
        "qualify": mode or None,
    }
    print("\n".join(about(found)), flush=True)
    rows = list(examined(device))
    if flags.json is not None:
        files.write_json(flags.json, {**found, "kernels": [asdict(r) for r in rows]}, seal=False)
    head = ["backend", "variant", "shape", "result", "of what is allowed", "s"]
    print("\n".join(columns([head, *(row.cells() for row in rows)], left=4)))
    for row in rows:
        if row.why is not None:
            print(f"softmap: {row.backend}, {row.variant}, {row.shape}: {row.why}", file=sys.stderr)
    return WRONG if any(row.verdict == "wrong" for row in rows) else 0


def about(found: dict[str, Any]) -> Iterator[str]:
    """Yields what the machine has, in lines."""
    versions, device, gpu = found["versions"], found["device"], found["gpu"]
    names = ("python", "torch", "triton", "cuda", "transformers")
    listed = ", ".join(f"{n} {versions[n]}" for n in names if versions.get(n))
    yield f"softmap {found['softmap']}; {listed}; {versions['platform']}"
    yield f"device: {device['name']}, {device['kind']}, threads: {device['threads']}"
    if gpu is not None:
        yield f"GPU: driver {gpu['driver']}, compute capability {gpu['capability']}"
    yield f"compiler: {versions.get('compiler', 'none')}"
    yield f"native kernels: {found['native'] or 'built'}"
    yield f"Triton kernels: {found['triton'] or 'not yet tried'}"
    yield f"built and qualified here: {found['cache']}"


def _triton_missing(device: torch.device) -> str | None:
    """Returns why no call on the device could use Triton, or None."""
    if device.type != "cuda":
        return f"they need a GPU, the device is {device}"
    x = torch.zeros(1, 1, 1, 16, device=device)
    return triton.refuses(make_call(x, x, x))


def examined(device: torch.device) -> Iterator[DoctorRow]:
    """Yields a row for each kernel and shape: native ones on the CPU, Triton's on a GPU."""
    for variant in VARIANTS:
        for dtype in ("float32", "bfloat16"):
            yield _row("native", Case(variant, 1, 4, 12, 16, dtype=dtype), native, _native)  # type: ignore[arg-type]
    if device.type == "cuda":
        cases = [case for variant in VARIANTS for case in _of_gpu(variant, str(device))]
        with _pool() as pool:
            yield from pool.map(_by_triton, cases)


def _pool() -> Executor:
    """Returns processes for the trials: most of a trial is compilation, which takes one core."""
    jobs = min(MOST_JOBS, os.cpu_count() or 1)
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))


def _by_triton(case: Case) -> DoctorRow:
    return _row("triton", case, triton, _triton)


def _of_gpu(variant: str, device: str) -> Iterator[Case]:
    case = Case(variant, 2, 16, 64, 64, dtype="bfloat16", device=device)
    yield case
    if variant in LARGE:
        yield case.resized(heads=32, head_dim=128)
    if variant in DECODED:
        yield case.resized(tokens=1, keys=64)


def _row(
    name: str, case: Case, backend: Any, ask: Callable[[Call], qualify.Qualification]
) -> DoctorRow:
    call = make_problem(case).call
    shape = qualify.spelled(qualify.kind_of(backend, call)).partition(", ")[2]
    refusal = backend.refuses(call)
    if refusal is not None:
        return DoctorRow(name, case.variant, shape, "refused", refusal, None, 0.0, {})
    try:
        found = ask(call)
    except SoftmapError as error:  # the GPU is lost
        return DoctorRow(name, case.variant, shape, "wrong", str(error), None, 0.0, {})
    verdict = "not tried" if not found.tried else "right" if found.why is None else "wrong"
    worst = _worst(found.errors, call.q.dtype)
    return DoctorRow(
        name, case.variant, shape, verdict, found.why, worst, found.seconds, found.errors
    )


def _native(call: Call) -> qualify.Qualification:
    return tried(SMALL, call, qualify.kind_of(native, call))  # type: ignore[arg-type]


def _triton(call: Call) -> qualify.Qualification:
    return qualify.verdict(triton, call, qualify.kind_of(triton, call))


def _worst(errors: Sizes, dtype: torch.dtype) -> float | None:
    """Returns the largest error relative to what is allowed for it."""
    found = [
        precision.excess(name, precision.Errors(*pair), dtype)
        for of in errors.values()
        for name, pair in of.items()
        if None not in pair
    ]
    return max(found, default=None, key=lambda x: math.inf if math.isnan(x) else x)
