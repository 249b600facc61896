"""Attention calls on a GPU beside SDPA: times, memory, and the kernels that take them.

    python benchmarks/gpu_table.py --out results/gpu-h200.json
    python benchmarks/gpu_table.py --table results/gpu-h200.json

bfloat16; forward, and forward + backward, medians of triton.testing.do_bench, which flushes the
second-level cache before each call. The second command prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmap.bench.case import PLAIN, Case, Problem, make_problem, run_backend
from softmap.lab.machine import provenance
from softmap.ops import BACKENDS

SHAPES = ((8, 16, 2048, 64), (2, 16, 8192, 64), (8, 32, 2048, 128), (2, 32, 8192, 128))
VARIANTS = ("diff", "diff2", "sas", "kerple", "fire", "talking-heads", "dcmha", "dape")
SIZES = ("batch", "heads", "tokens", "head_dim")


def calls(problem: Problem, backend: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The forward pass alone, and both."""
    leaves = [
        t.detach().clone().requires_grad_(learnt)
        for t, learnt in zip(problem.leaves, problem.learnt, strict=True)
    ]
    learnt = [t for t in leaves if t.requires_grad]

    def forward() -> Tensor:
        return run_backend(backend, problem.at(leaves))

    def both() -> None:
        torch.autograd.grad(forward(), learnt, problem.upstream, allow_unused=True)

    return torch.no_grad()(forward), both


def row(case: Case, name: str) -> dict[str, Any] | None:
    """Times of a case by a backend; None where it refuses."""
    from triton.testing import do_bench

    problem = make_problem(case)
    if BACKENDS[name].refuses(problem.call) is not None:
        return None
    forward, both = calls(problem, BACKENDS[name])
    found = {"variant": case.variant, "backend": name, **{n: getattr(case, n) for n in SIZES}}
    found |= {"window": case.window} if case.window else {}
    for what, run in (("forward_ms", forward), ("both_ms", both)):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        found[what] = round(do_bench(run, warmup=15, rep=60, return_mode="median"), 3)
        found["peak_bytes"] = torch.cuda.max_memory_allocated() - held
    return found


def measured(variants: Sequence[str], window: int | None) -> Iterator[dict[str, Any]]:
    """A row for each shape, variant and backend; plain attention without a window."""
    for sizes in SHAPES:
        for variant in (PLAIN, *variants):
            seen = None if variant == PLAIN else window
            case = Case(variant, *sizes, window=seen, dtype="bfloat16", device="cuda")
            for name in ("folded",) if variant == PLAIN else ("triton", "folded"):
                if (found := row(case, name)) is not None:
                    print(json.dumps(found), flush=True)
                    yield found


def table(path: Path) -> Iterator[str]:
    """Throughput of forward + backward over SDPA's, the last measurement of each in the file."""
    rows = json.loads(path.read_text(encoding="utf-8"))["calls"]
    rows = [r for r in rows if not r.get("window")]
    taken = {(r["variant"], r["backend"], r.get("triton"), *(r[n] for n in SIZES)): r for r in rows}
    names = list(dict.fromkeys(key[:3] for key in taken if key[0] in VARIANTS))
    heads = [f"H{h} d{d} T{t}" for _, h, t, d in SHAPES]
    yield f"| variant | backend | Triton | {' | '.join(heads)} |"
    yield "| --- | --- | --- |" + " --- |" * len(heads)
    plain = {key[3:]: r["both_ms"] for key, r in taken.items() if key[:2] == (PLAIN, "folded")}
    for name in names:
        found = [taken.get((*name, *sizes)) for sizes in SHAPES]
        cells = [
            "" if r is None else f"{plain[sizes] / r['both_ms']:.3f}"
            for r, sizes in zip(found, SHAPES, strict=True)
        ]
        if all(cells):
            yield f"| {' | '.join(map(str, name))} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--window", type=int)
    flags = parser.parse_args()
    if flags.table is not None:
        print("\n".join(table(flags.table)))
    if flags.out is not None:
        found = {
            "what": __doc__,
            "provenance": provenance(torch.device("cuda")),
            "calls": list(measured(flags.variants, flags.window)),
        }
        flags.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
