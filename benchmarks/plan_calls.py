"""Attention calls on a GPU beside what ``softmap plan`` would say of them: where it is wrong.

    python benchmarks/plan_calls.py results/gpu-h200.json

The fastest of each variant's measured calls (forward and backward, bfloat16) of one shape. A column
each for the products of the map and for the edits, at the plan's default shares of the peaks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from softmap.cost import Assumptions, find
from softmap.nn import ModelConfig, accounting

BATCH, HEADS, TOKENS, WIDTH = 8, 16, 2048, 64


def fastest(path: str) -> dict[str, float]:
    """Milliseconds by variant."""
    shape = {"batch": BATCH, "heads": HEADS, "tokens": TOKENS, "head_dim": WIDTH}
    found: dict[str, float] = {}
    for call in json.loads(Path(path).read_text())["calls"]:
        own = call["backend"] in ("triton", "folded") and "value_dim" not in call
        if own and all(call[name] == size for name, size in shape.items()):
            found[call["variant"]] = min(found.get(call["variant"], 1e9), call["both_ms"])
    return found


def predicted(variant: str) -> tuple[float, float]:
    """Milliseconds of products and of edits; of what grows with the map, as a call is."""
    gpu, given = find("h200"), Assumptions()
    config = ModelConfig(
        variant=variant, hidden_size=HEADS * WIDTH, num_attention_heads=HEADS, num_hidden_layers=1
    )
    whole, least = (accounting.forward_flops(config, n) for n in (TOKENS, 1))
    products, edits = whole.products - least.products, whole.edits - least.edits
    tokens = 3e3 * BATCH * TOKENS
    a, b = gpu.flops["bf16"] * given.efficiency, gpu.flops["fp32"] * given.edits
    return tokens * products / a, tokens * edits / b


def main() -> None:
    print("| variant | measured, ms | products | edits | predicted / measured |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for variant, ms in fastest(sys.argv[1]).items():
        products, edits = predicted(variant)
        ratio = (products + edits) / ms
        print(f"| {variant} | {ms:.2f} | {products:.2f} | {edits:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
