"""Tables and pictures say what the results say, in the documentation that ships too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from softmap.bench.pages import fill
from softmap.cli import main
from softmap.errors import SoftmapError

ROOT = Path(__file__).parents[2]
OP = ["bench", "op", "dcmha", "--batch", "1", "--heads", "2", "--head-dim", "4", "--rounds", "3"]
OP += ["--peers", "none", "--impl", "chunked", "--tokens", "8", "16"]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    assert main([*OP, "--out", str(tmp_path / "op.json")]) == 0
    return tmp_path / "op.json"


@pytest.mark.parametrize("page", ["docs/performance.md", "README.md"])
def test_pages_are_what_the_results_give(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "<!-- bench:" in text
    assert fill(text, (ROOT / page).parent) == text


def test_a_table_follows_its_result(result: Path) -> None:
    page = "a\n<!-- bench: op op.json gone.json -->\nold\n<!-- /bench -->\nb\n"
    filled = fill(page, result.parent)
    assert fill(filled, result.parent) == filled
    assert filled.startswith("a\n<!-- bench") and filled.endswith("<!-- /bench -->\nb\n")
    assert "old" not in filled and "`gone.json` does not exist" in filled
    content = json.loads(result.read_text())
    row = next(r for r in content["cases"][0]["rows"] if r["candidate"] == "chunked")
    row["seconds"]["median"], row["over_sdpa"]["median"] = 0.0123, 4.567
    result.write_text(json.dumps(content))
    again = fill(filled, result.parent)
    line = next(s for s in again.splitlines() if "| chunked |" in s)
    assert "| 12.3 |" in line and "| 4.57 (" in line


def test_check_finds_a_stale_table(
    result: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = result.parent / "page.md"
    page.write_text(f"<!-- bench: op {result.name} -->\n<!-- /bench -->\n")
    assert main(["bench", "pages", str(page), "--check"]) == 2
    assert "tables differ" in capsys.readouterr().err
    assert main(["bench", "pages", str(page)]) == 0
    assert main(["bench", "pages", str(page), "--check"]) == 0
    assert "| chunked |" in page.read_text()


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("<!-- bench: op a.json -->\n", "without"),
        ("<!-- bench: cake a.json -->\n<!-- /bench -->\n", "found 'cake'"),
        ("<!-- bench: step op.json -->\n<!-- /bench -->\n", "expected a result of bench step"),
        ("<!-- bench: op bad.json -->\n<!-- /bench -->\n", "expected a JSON object, found list"),
    ],
)
def test_bad_markers(result: Path, page: str, says: str) -> None:
    (result.parent / "bad.json").write_text("[]")
    with pytest.raises(SoftmapError, match=says):
        fill(page, result.parent)


def test_plot(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = result.parent / "images"
    assert main(["bench", "plot", str(result), "--out", str(folder)]) == 0
    assert {p.name for p in folder.iterdir()} == {
        "op-dcmha.svg", "op-dcmha-dark.svg", "op-dcmha.png",
    }  # fmt: skip
    light = (folder / "op-dcmha.svg").read_text()
    assert "chunked" in light and "SDPA" in light and "#ffffff" in light
    assert "#ffffff" not in (folder / "op-dcmha-dark.svg").read_text()


def test_plot_wants_several_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OP[:-2], "8", "--out", str(tmp_path / "one.json")]) == 0
    capsys.readouterr()
    assert main(["bench", "plot", str(tmp_path / "one.json"), "--out", str(tmp_path)]) == 2
    assert "several --tokens" in capsys.readouterr().err
    assert main(["bench", "plot", str(tmp_path / "none.json")]) == 2
    assert "no such file" in capsys.readouterr().err
