"""The table of docs/kernels.md is what its file of results says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_table_is_that_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("aot", ROOT / "benchmarks" / "triton_aot.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = json.loads((ROOT / "results" / "triton-sm90.json").read_text())["kernels"]
    page = (ROOT / "docs" / "kernels.md").read_text()
    assert benchmark.filled(page, rows) == page
