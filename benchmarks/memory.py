"""Peak memory of one attention, forward + backward, chunked against reference.

    python benchmarks/memory.py --heads 16 --head-dim 64 --tokens 4096 --out results/memory-cpu.json

Every figure is the growth of a fresh process's peak resident memory (VmHWM) over what it held
before the call, inputs and projections included in what it held.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

VARIANTS = ("dcmha", "dape", "talking-heads", "diff")


def status(name: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")


def worker(variant: str, impl: str, heads: int, head_dim: int, tokens: int) -> None:
    """Prints one measurement as JSON."""
    import torch

    from softmap.nn import Attention

    torch.manual_seed(0)
    layer = Attention(heads * head_dim, heads, variant, impl=impl)
    x = torch.randn(1, tokens, heads * head_dim, requires_grad=True)
    layer(x[:, :64]).sum().backward()  # libraries load, threads start
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # restart the peak
    start = time.perf_counter()
    layer(x).sum().backward()
    seconds = time.perf_counter() - start
    print(json.dumps({"bytes": status("VmHWM") - before, "seconds": round(seconds, 3)}))


def measure(variant: str, impl: str, args: argparse.Namespace) -> dict:
    sizes = [str(n) for n in (args.heads, args.head_dim, args.tokens)]
    command = [sys.executable, __file__, "--worker", variant, impl, *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:] or [f"signal {-done.returncode}"]}
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    from softmap.lab.machine import provenance

    rows = {}
    for variant in args.variants:
        row = {impl: measure(variant, impl, args) for impl in ("chunked", "reference")}
        if all("bytes" in figure for figure in row.values()):
            row["ratio"] = round(row["reference"]["bytes"] / row["chunked"]["bytes"], 1)
        rows[variant] = row
        print(variant, json.dumps(row), flush=True)
    if args.out:
        import torch

        facts = {
            "what": "peak memory of one attention layer, forward + backward, float32, batch 1",
            "command": "python " + " ".join(sys.argv),
            "heads": args.heads,
            "head_dim": args.head_dim,
            "tokens": args.tokens,
            **provenance(torch.device("cpu")),
            "variants": rows,
        }
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], *(int(n) for n in sys.argv[4:7]))
    else:
        main()
