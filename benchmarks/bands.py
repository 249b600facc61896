"""How large should a tile be? Time of one chunked attention, forward + backward, by its size.

    python benchmarks/bands.py --out results/bands-cpu.json

Each figure is a ratio to plain attention (transformer++, the same projections) measured in the same
round; the median over the rounds is kept, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from softmap.lab.machine import provenance
from softmap.nn import Attention
from softmap.ops import tiles

SHAPES = ((8, 256, 128, 4), (1, 2048, 1024, 16))  # batch, tokens, width, heads
SIZES = (18, 19, 20, 21, 22)  # powers of two, bytes of one map tensor of a tile


def call(variant: str, shape: tuple[int, ...]) -> Callable[[], None]:
    batch, tokens, width, heads = shape
    torch.manual_seed(0)
    layer = Attention(width, heads, variant)
    x = torch.randn(batch, tokens, width, requires_grad=True)
    return lambda: layer(x).sum().backward()


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratios(variant: str, shape: tuple[int, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Median, lowest and highest ratio for each tile size."""
    plain, edited = call("transformer++", shape), call(variant, shape)
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    plain(), edited()
    for _ in range(rounds):
        base = seconds(plain)
        for size, values in found.items():
            tiles.TILE_BYTES = 1 << size
            values.append(seconds(edited) / base)
    return {
        f"{1 << size} bytes": {
            "median": round(statistics.median(values), 2),
            "low": round(min(values), 2),
            "high": round(max(values), 2),
        }
        for size, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=("dcmha", "dape", "talking-heads"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = {}
    for shape in SHAPES:
        for variant in args.variants:
            name = f"{variant} batch {shape[0]} tokens {shape[1]} width {shape[2]} heads {shape[3]}"
            rows[name] = ratios(variant, shape, args.rounds)
            print(name, json.dumps(rows[name]), flush=True)
    if args.out:
        facts = {
            "what": "time of one attention layer over plain attention, forward + backward, float32",
            "command": "python " + " ".join(sys.argv),
            "rounds": args.rounds,
            **provenance(torch.device("cpu")),
            "ratios": rows,
        }
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
