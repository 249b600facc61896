"""docs/ledger.md says what the committed results say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_that_of_the_results() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "ledger_page.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    page = benchmark.PAGE.read_text(encoding="utf-8")
    assert benchmark.filled(page) == page
    assert page.count("### ") == len(list(benchmark.RESULTS.glob("*.json"))) > 0
