"""Who may import whom. A room that reaches into another one makes two rooms one."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "softmap"

# Beside itself, and FREE, which are free for all. "*" is the package's own __init__.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"maps", "ops", "variants"},
    "__main__": {"*", "cli"},
    "argv": set(),
    "backbone": set(),
    "errors": set(),
    "extras": set(),
    "fields": set(),
    "lazy": set(),
    "files": set(),
    "maps": set(),
    "variants": {"maps", "backbone"},
    "ops": {"maps"},
    "nn": {"maps", "backbone", "ops", "variants"},
    "hf": {"maps", "nn"},
    "interop": {"maps", "hf", "nn", "variants"},
    "data": set(),
    "train": {"hf", "nn", "data"},
    "cost": {"maps", "nn", "train"},
    "evals": {"maps", "ops", "hf", "nn", "data"},
    "report": set(),
    "testing": {"maps", "ops", "variants", "nn", "hf", "data"},
    "lab": {"*", "maps", "ops", "variants", "nn", "hf", "data", "train", "cost", "evals",
            "report", "interop", "testing"},
    "bench": {"*", "maps", "ops", "variants", "nn", "hf", "data", "train", "lab", "report",
              "testing"},
    "claims": set(),
    "ledger": {"*", "claims", "bench", "variants", "data", "lab", "report"},
    "cli": {"argv", "lab", "report", "interop", "variants", "bench", "ledger"},
}  # fmt: skip
FREE = ("errors", "extras", "fields", "files", "lazy")
TORCH_ONLY = (*FREE, "maps", "backbone", "variants", "ops", "nn")


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module or ""
            names = {f"{whole}.{alias.name}" for alias in node.names}
            found |= names if whole == "softmap" else {whole}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def rooms_of(names: set[str]) -> set[str]:
    """The rooms among imported names; a name of the package itself (its version) is "*"."""
    own = [name.split(".") for name in names if name.split(".")[0] == "softmap"]
    known = {room(p) for p in ROOT.rglob("*.py")}
    return {parts[1] if len(parts) > 1 and parts[1] in known else "*" for parts in own}


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    own = room(path)
    assert own in ALLOWED, f"{own} is a new room: say in this test whom it may import"
    wrong = rooms_of(imports(path)) - ALLOWED[own] - {own, *FREE}
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_core_needs_only_torch(path: Path) -> None:
    if room(path) not in TORCH_ONLY:
        return
    tops = {name.split(".")[0] for name in imports(path)}
    kernels = {"triton"} if path.is_relative_to(ROOT / "ops" / "triton") else set()
    assert tops <= {"softmap", "torch"} | kernels | set(sys.stdlib_module_names), path


def test_no_cycle_is_allowed() -> None:
    """The table itself has a direction: rooms can be put in an order."""
    left, done = dict(ALLOWED), {"*", *FREE}
    while left:
        ready = [name for name, needs in left.items() if needs - {name} <= done]
        assert ready, f"a cycle among {', '.join(left)}"
        done |= set(ready)
        left = {name: needs for name, needs in left.items() if name not in ready}


def test_import_is_light() -> None:
    """``import softmap`` brings torch and nothing of the extras."""
    heavy = "transformers", "datasets", "tokenizers", "altair", "pyarrow", "yaml", "triton"
    code = f"import softmap, softmap.nn, sys; sys.exit(any(m in sys.modules for m in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
