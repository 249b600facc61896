"""The tables of docs/kernels.md are what their files of results say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("name", "results"),
    [("triton_aot", "triton-sm90"), ("triton_score_conv", "triton-score-conv-sm90")],
)
def test_the_table_is_that_of_the_results(name: str, results: str) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = json.loads((ROOT / "results" / f"{results}.json").read_text())["kernels"]
    page = (ROOT / "docs" / "kernels.md").read_text()
    assert benchmark.filled(page, rows) == page
