"""The Python of the pages runs as it stands, from a folder that is not the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# own-variant.md has a test of its own; interop.md needs weights from elsewhere, CONTRIBUTING.md a
# file in the package.
ELSEWHERE = {"own-variant.md", "interop.md"}
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if blocks(p) and p.name not in ELSEWHERE],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them: a later block may use an earlier one."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, page.name, "exec"), names)


def test_the_reference_has_every_room() -> None:
    """A page of docs/reference names it; mkdocstrings takes its submodules by itself."""
    named = re.findall(r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in REFERENCE), re.MULTILINE)
    rooms = {
        f"softmap.{path.stem}"
        for path in (ROOT / "src" / "softmap").iterdir()
        if not path.name.startswith("_")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert rooms == {name for name in named if name != "softmap"}
