"""What the Triton kernels need of an H100, from code compiled for sm_90; no GPU is needed.

    python benchmarks/triton_aot.py --out results/triton-sm90.json

For each variant and size: registers and spilled bytes a thread, shared memory a program,
instructions of a warp and cycles of shared memory in a turn of each loop over tiles and, from
those, lane-instructions and bytes through shared memory a cell of one head: an SM does 128 of each
in a cycle, and a conflict of banks counts as bytes. A program may have 255 registers a thread and
227 KiB of shared memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from softmap.lab.machine import provenance
from softmap.nn import Attention
from softmap.nn.positions import Positions
from softmap.ops import make_call
from softmap.ops.call import Call

# Where heads are apart a program takes one, whatever their number.
APART = ((4, 64), (4, 128))
SIZES = ((8, 64), (16, 64), (32, 64), (8, 128), (16, 128), (32, 128))
VARIANTS = {
    "transformer++": APART,
    "kerple": APART,
    "fire": APART,
    "diff": APART,
    "dcmha": SIZES,
    "dcmha(static=true)": ((16, 64), (32, 128)),
    "talking-heads": ((16, 64), (32, 128)),
}
LIMIT = 227 << 10
TOKENS = 512


def call_of(
    variant: str, heads: int, width: int, tokens: int = TOKENS, device: str = "cpu"
) -> Call:
    """A training call in bfloat16; parameters keep float32, as under autocast."""
    layer = Attention(heads * width, heads, variant, head_dim=width).to(device)
    x = torch.zeros(1, tokens, heads * width, device=device)
    with torch.no_grad():
        q, k, v = layer.project(x, Positions.of(tokens, None, x.device))
        tensors: list[Any] = [e(x) for e in layer.edits]  # type: ignore[arg-type]
    q, k, v = (t.bfloat16() for t in (q, k, v))
    for n, t in enumerate(tensors):
        query, key = ({m: a.bfloat16() for m, a in d.items()} for d in (t.query, t.key))
        tensors[n] = t._replace(query=query, key=key)
    return make_call(q, k, v, list(layer.edits), tensors=tensors)  # type: ignore[arg-type]


def compile_all(call: Call) -> list[dict[str, Any]]:
    """Forward and backward of a call, compiled and not run."""
    from triton_compiling import compiling

    from softmap.ops.triton.gradients import backward
    from softmap.ops.triton.launch import forward
    from softmap.ops.triton.plan import FIXED, spec_of, tensors_of_call

    spec = spec_of(call)
    flat = tensors_of_call(call, spec)
    needs = [n < 3 or n >= len(FIXED) for n in range(len(flat))]
    with compiling(90) as found, torch.no_grad():
        o, lse = forward(flat, spec)
        backward(torch.zeros_like(o), o, lse, flat, spec, needs)
    return found


def measure(variant: str, heads: int, width: int) -> list[dict[str, Any]]:
    rows = compile_all(call_of(variant, heads, width))
    for row in rows:
        cells = (heads if row["heads"] else 1) * row["rows"] * row["keys"]
        row["lane_instructions_per_cell"] = [
            round(n * 32 * row["warps"] / cells, 1) for n in row["loops"]
        ]
        row["shared_bytes_per_cell"] = [round(n * 128 / cells, 1) for n in row["wavefronts"]]
        row["fits"] = row["shared"] <= LIMIT
    return [{"variant": variant, "H": heads, "d": width} | row for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each call: what its three kernels need."""
    lines = [
        "| variant | H | d | tile, warps | registers | spilled bytes a thread | shared KiB | "
        "lane-instructions a cell | shared bytes a cell |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["kernel"] != "forward":
            continue
        three = [r for r in rows if all(r[n] == row[n] for n in ("variant", "H", "d"))]
        tiles = ", ".join(f"{r['rows']} x {r['keys']}, {r['warps']}" for r in three)
        heads = row["H"] if row["heads"] else "any"
        shared = ", ".join(str(round(r["shared"] / 1024)) for r in three)
        lanes, moved = (
            ", ".join(f"{r['kernel']} {' + '.join(map(str, r[name]))}" for r in three)
            for name in ("lane_instructions_per_cell", "shared_bytes_per_cell")
        )
        numbers = [", ".join(str(r[n]) for r in three) for n in ("registers", "spilled")]
        lines.append(
            f"| {row['variant']} | {heads} | {row['d']} | {tiles} | {' | '.join(numbers)} | "
            f"{shared} | {lanes} | {moved} |"
        )
    return "\n".join(lines)


def filled(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the table between its two marks."""
    before, rest = page.split("<!-- table -->")
    return f"{before}<!-- table -->\n{table(rows)}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("results/triton-sm90.json"))
    parser.add_argument("--page", type=Path, help="only write the table of --out into this page")
    options = parser.parse_args()
    if options.page:
        rows = json.loads(options.out.read_text())["kernels"]
        options.page.write_text(filled(options.page.read_text(), rows))
        return
    torch.set_num_threads(1)
    rows = []
    for variant in options.variants:
        for heads, width in VARIANTS.get(variant, SIZES):
            for row in measure(variant, heads, width):
                rows.append(row)
                print(*(f"{name} {value}" for name, value in row.items()), flush=True)
    head = {"what": __doc__.splitlines()[0], "capability": 90, "limit_shared": LIMIT}
    found = head | {"provenance": provenance(torch.device("cpu")), "kernels": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
