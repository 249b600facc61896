"""Names as people type them: of runs, labels and variants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softmap.errors import SoftmapError, shown

LONGEST = 100  #: bytes of a name; folders and temporary files of it add their own
FORBIDDEN = '/\\<>:"|?*'  #: separators, and what Windows and its file systems refuse


def check_name(what: str, name: str) -> None:
    """Raise ``SoftmapError`` unless ``name`` can name a folder on any machine."""
    plain = bool(name) and name.isprintable() and not set(name) & set(FORBIDDEN)
    if not plain or name != name.strip(" .") or name.startswith("-"):
        raise SoftmapError(
            f"{what}: expected the name of a folder, found {shown(name)} (none of {FORBIDDEN}, no "
            "control characters, no dash or point first, no point or blank last)"
        )
    if len(name.encode()) > LONGEST:
        raise SoftmapError(f"{what}: expected at most {LONGEST} bytes, found {shown(name)}")


def check_path(what: str, path: Path) -> None:
    """Raise ``SoftmapError`` for what no system takes for a path, and for an empty one."""
    if not str(path) or not str(path).isprintable():
        raise SoftmapError(f"{what}: expected a path, found {shown(str(path))}")


def split_variants(given: Sequence[str]) -> list[str]:
    """``["a", "b,c(x=1,y=2)"]`` to ``["a", "b", "c(x=1,y=2)"]``: commas in brackets stay."""
    found, part, depth = [], "", 0
    for char in ",".join(given):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            found.append(part.strip())
            part = ""
        else:
            part += char
    return [name for name in [*found, part.strip()] if name]
