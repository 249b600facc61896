"""Plain attention: exact in the native kernels, and taken by them where it was measured faster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from native_cases import Case, same_as_reference

from softmap.ops import choose
from softmap.ops.attention import make_call
from softmap.ops.native import plain

RESULTS = Path(__file__).parents[3] / "results" / "plain-cpu.json"
CASES = [
    Case("transformer++"),
    Case("transformer++", tokens=1, batch=1),
    Case("transformer++", heads=6, keys=2, values=2, width=6, value_width=10, tokens=130),
    Case("transformer++", window=5, left=3, right=4, width=3, value_width=5),
    Case("transformer++", batch=3, left=2, hidden=True, tokens=70),
    Case("transformer++", packed=(3, 1, 20, 13), heads=2),
    Case("transformer++", queries=4, width=65, value_width=64),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_gradient(case: Case) -> None:
    same_as_reference(case)


def taken(tokens: int, width: int, grad: bool) -> str:
    q = torch.randn(1, 2, tokens, width, requires_grad=grad)
    return choose(make_call(q, q.detach(), q.detach()))


def test_long_rows_of_narrow_heads_are_native() -> None:
    assert taken(128, 8, grad=True) == "native"
    assert taken(128, 8, grad=False) == "native"
    assert taken(128, 64, grad=True) == "native"


def test_the_rest_is_left_to_sdpa() -> None:
    assert taken(1, 8, grad=False) == "folded"
    assert taken(32, 8, grad=True) == "folded"
    assert taken(128, 64, grad=False) == "folded"
    assert taken(512, 192, grad=True) == "folded"
    with torch.no_grad():  # the answer of the table for inference, though q could have a gradient
        assert taken(128, 64, grad=True) == "folded"


@pytest.mark.parametrize("kind", ["training", "inference"])
def test_the_table_is_what_was_measured(kind: str) -> None:
    """No row of the results in the table's ranges is slower than SDPA."""
    table = {"training": plain.TRAINING, "inference": plain.INFERENCE}[kind]
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    for most, tokens in table.items():
        least = max((w for w in table if w < most), default=0)
        inside = [r for r in rows if least < r["head_dim"] <= most and r["tokens"] in tokens]
        assert len(inside) >= 3
        assert [r for r in inside if r[kind] >= 1] == []
