"""Where is plain attention faster in the native kernels than in SDPA? Ratios, one call each.

    python benchmarks/plain.py --out results/plain-cpu.json
    python benchmarks/plain.py --threads 2 --dtypes bfloat16 --out other.json

Both backends take turns on the same tensors; a ratio is the median of the rounds'. Every row has
about as many tokens, 2,048 or one sequence. ``softmap.ops.native.plain`` keeps what was found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from softmap.bench.save import environment
from softmap.ops import attention

TOKENS = 2048
HEADS = 8
ROUNDS = 5
SECONDS = 0.5  # after three rounds
WIDTHS = (4, 8, 16, 32, 64, 128)
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


def row(threads: int, dtype: str, width: int, length: int) -> dict[str, Any]:
    """native / SDPA of one size: forward and backward, and forward alone without gradients."""
    torch.set_num_threads(threads)
    shape = (max(1, TOKENS // length), HEADS, length, width)
    q, k, v = (torch.randn(shape, dtype=getattr(torch, dtype)).requires_grad_() for _ in range(3))

    def train(impl: str) -> None:
        o = attention(q, k, v, impl=impl)
        torch.autograd.grad(o, (q, k, v), q)

    def infer(impl: str) -> None:
        with torch.no_grad():
            attention(q, k, v, impl=impl)

    return {"threads": threads, "dtype": dtype, "head_dim": width, "tokens": length,
            "batch": shape[0], "training": ratio(train), "inference": ratio(infer)}  # fmt: skip


def ratio(run: Callable[[str], None]) -> float:
    """Median over interleaved rounds of native's time by that of SDPA."""
    for impl in ("native", "folded"):
        run(impl)
    found, start = [], time.monotonic()
    for n in range(ROUNDS):
        found.append(seconds(run, "native") / seconds(run, "folded"))
        if n >= 2 and time.monotonic() - start > SECONDS:
            break
    return round(statistics.median(found), 3)


def seconds(run: Callable[[str], None], impl: str) -> float:
    """Of one call."""
    start = time.perf_counter()
    run(impl)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = {
        "command": " ".join(["python", *sys.argv]),
        **environment(torch.device("cpu")),
        "vectors": torch.backends.cpu.get_cpu_capability(),
    }
    rows = []
    for threads in args.threads:
        for dtype in args.dtypes:
            for width in WIDTHS:
                for length in LENGTHS:
                    rows.append(row(threads, dtype, width, length))
                    print(rows[-1], file=sys.stderr)
    args.out.write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
