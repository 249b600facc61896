"""What the score convolution's Triton kernels need of an H100, compiled for sm_90 without a GPU.

    python benchmarks/triton_score_conv.py --out results/triton-score-conv-sm90.json

For each bias and size, in bfloat16: registers and spilled bytes a thread, shared memory a program,
and instructions of a warp in a turn of each outer loop (the kernel ``weights`` has none). A program
may have 255 registers a thread and 227 KiB of shared memory.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch

from softmap.lab.machine import provenance
from softmap.nn import Attention
from softmap.ops import make_call
from softmap.ops.triton import score_conv

LIMIT = 227 << 10
TOKENS = 512
# (variant, heads, width)
SIZES = [
    *(("dape", heads, width) for heads in (8, 16, 32) for width in (64, 128)),
    *((f"dape(bias={bias})", 16, 64) for bias in ("none", "alibi", "fire")),
    ("dape(version=1)", 16, 64),
    ("dape(kernel=7)", 16, 64),
    ("dape(kernel=7)", 32, 128),
    ("dape", 64, 64),
]


def compile_all(
    variant: str, heads: int, width: int, dtype: torch.dtype = torch.bfloat16
) -> list[dict[str, Any]]:
    """Forward and backward, compiled and not run."""
    from triton_compiling import compiling

    from softmap.ops.triton import score_conv_launch as impl
    from softmap.ops.triton.common import limits
    from softmap.ops.triton.score_conv_plan import pack, tile_of

    layer = Attention(heads * width, heads, variant, head_dim=width)
    q, k, v = (torch.zeros(1, heads, TOKENS, width, dtype=dtype) for _ in range(3))
    tensors: Any = [e() for e in layer.edits]  # type: ignore[arg-type]
    call = make_call(q, k, v, list(layer.edits), tensors=tensors)  # type: ignore[arg-type]
    kind = score_conv.kind_of(call.edits[0].kernel or "")
    with compiling(90) as found, torch.no_grad():
        packed, mask = pack(score_conv.layer_tensors(call), kind, q.dtype), limits(call)
        at = impl.Where(*mask, call.rows.int(), call.cols.int(), kind, call.scale, 0)
        o, lse = impl.forward(q, k, v, packed, at)
        impl.backward(q, o, lse, q, k, v, packed, at)
    tile = tile_of(heads, width, packed.w1.shape[0], q.element_size())._asdict()
    kernels = {row["kernel"]: row for row in found}  # a kernel is launched once a band
    head = {"variant": variant, "H": heads, "d": width} | tile
    return [head | cleaned(row) for row in kernels.values()]


def cleaned(row: dict[str, Any]) -> dict[str, Any]:
    names = ("kernel", "registers", "spilled", "shared", "loops")
    return {name: row[name] for name in names} | {"fits": row["shared"] <= LIMIT}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, a line for each size: what its three kernels need."""
    lines = [
        "| variant | H | d | columns | registers | spilled bytes a thread | shared KiB | "
        "lane-instructions a cell |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for three in (rows[n : n + 3] for n in range(0, len(rows), 3)):
        head = three[0]
        cols, used = head["cols"], columns_used(head)
        shared = ", ".join(str(round(r["shared"] / 1024)) for r in three)
        numbers = [", ".join(str(r[n]) for r in three) for n in ("registers", "spilled")]
        costs = [f"{r['kernel'].removesuffix('_kernel')} {lanes(r)}" for r in three if r["loops"]]
        lines.append(
            f"| {head['variant']} | {head['H']} | {head['d']} | {cols} ({used}) | "
            f"{' | '.join(numbers)} | {shared} | {', '.join(costs)} |"
        )
    return "\n".join(lines)


def columns_used(row: dict[str, Any]) -> int:
    """Columns of a tile that its neighbours do not compute too."""
    option = re.search(r"kernel=(\d+)", row["variant"])
    taps = 1 if "version=1" in row["variant"] else int(option[1]) if option else 3
    return int(row["cols"]) - taps // 2 * 4


def lanes(row: dict[str, Any]) -> int:
    """Lane-instructions of the loop over tiles for a cell of one head, of columns that count."""
    heads = min(row["H"], row["group"]) if row["kernel"] == "forward_kernel" else row["H"]
    cells = heads * row["rows"] * columns_used(row)
    return round(row["loops"][0] * 32 * row["warps"] / cells)


def filled(page: str, rows: list[dict[str, Any]]) -> str:
    """The page with the table between its two marks."""
    before, rest = page.split("<!-- dape -->")
    return f"{before}<!-- dape -->\n{table(rows)}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/triton-score-conv-sm90.json"))
    parser.add_argument("--page", type=Path, help="only write the table of --out into this page")
    options = parser.parse_args()
    if options.page:
        rows = json.loads(options.out.read_text())["kernels"]
        options.page.write_text(filled(options.page.read_text(), rows))
        return
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        for row in compile_all(*size):
            rows.append(row)
            print(*(f"{name} {value}" for name, value in row.items()), flush=True)
    head = {"what": __doc__.splitlines()[0], "capability": 90, "limit_shared": LIMIT}
    found = head | {"provenance": provenance(torch.device("cpu")), "kernels": rows}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
