"""What the score convolution's Triton kernels need of an H100, compiled for sm_90 without a GPU.

    python benchmarks/triton_score_conv.py --out results/triton-score-conv-sm90.json

For each bias and size, in bfloat16: registers and spilled bytes a thread, shared memory a program,
and instructions of a warp in a turn of each outer loop (the kernel ``weights`` has none). A program
may have 255 registers a thread and 227 KiB of shared memory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from softmap.lab.measure import provenance
from softmap.maps import tensors_of
from softmap.nn import Attention
from softmap.ops import make_call
from softmap.ops.triton import score_conv
from softmap.ops.triton.aot import compiling

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
    from softmap.ops.triton import score_conv_launch as impl
    from softmap.ops.triton.common import limits
    from softmap.ops.triton.score_conv_plan import pack, tile_of

    layer = Attention(heads * width, heads, variant, head_dim=width)
    q, k, v = (torch.zeros(1, heads, TOKENS, width, dtype=dtype) for _ in range(3))
    tensors: Any = [tensors_of(e, None) for e in layer.edits]  # type: ignore[arg-type]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/triton-score-conv-sm90.json"))
    options = parser.parse_args()
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
