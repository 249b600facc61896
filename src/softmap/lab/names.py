"""Names as users type them: of runs, labels and variants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from softmap.errors import SoftmapError, nearest, shown

LONGEST = 100  #: bytes of a name; folders and temporary files add to it
FORBIDDEN = '/\\<>:"|?*'  #: separators, and characters that Windows and its file systems refuse


def check_name(what: str, name: str) -> None:
    """Raise ``SoftmapError`` unless ``name`` can name a folder on any machine."""
    plain = bool(name) and name.isprintable() and not set(name) & set(FORBIDDEN)
    if not plain or name != name.strip(" .") or name.startswith("-"):
        raise SoftmapError(
            f"{what}: expected the name of a folder, found {shown(name)} (none of {FORBIDDEN}, no "
            "control characters, no dash or dot first, no dot or space last)"
        )
    if len(name.encode()) > LONGEST:
        raise SoftmapError(f"{what}: expected at most {LONGEST} bytes, found {shown(name)}")


def check_path(what: str, path: Path) -> None:
    """Raise ``SoftmapError`` for an empty path, and for one that no system accepts."""
    if not str(path) or not str(path).isprintable():
        raise SoftmapError(f"{what}: expected a path, found {shown(str(path))}")


def split_variants(given: Sequence[str]) -> list[str]:
    """Returns ``["a", "b,c(x=1,y=2)"]`` as ``["a", "b", "c(x=1,y=2)"]``, split outside of
    brackets.
    """
    found, part, depth = [], "", 0
    for char in ",".join(given):
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            found.append(part.strip())
            part = ""
        else:
            part += char
    return [name for name in [*found, part.strip()] if name]


def split_values(given: Sequence[str]) -> dict[str, str]:
    """Returns ``["a.b=1", "c=2"]`` of ``--set`` as ``{"a.b": "1", "c": "2"}``.

    Raises ``SoftmapError`` for a value without a key, and for a key given twice.
    """
    found: dict[str, str] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise SoftmapError(f"--set: expected key.path=value, found {item!r}")
        if key in found:
            raise SoftmapError(f"--set {key}: given twice, expected it once")
        found[key] = value
    return found


def is_run(path: Path) -> bool:
    """Returns whether ``path`` is the folder of a run."""
    return path.is_dir() and os.path.lexists(path / "run.json")


def no_run(folder: Path) -> SoftmapError:
    """Returns the error for a folder that is no run, with the nearest run beside it."""
    if (folder / "report.json").exists():
        return SoftmapError(
            f"{folder}: expected a run, found a report of several; name the runs themselves"
        )
    try:
        beside = [str(path.parent) for path in folder.parent.glob("*/run.json")]
    except OSError:
        beside = []
    what = "another folder" if folder.is_dir() else "none"
    text = f"; text is given with --data {folder}" if folder.is_dir() else ""
    hint = nearest(str(folder), beside) or text
    return SoftmapError(f"{folder}: expected a run (a folder with run.json), found {what}{hint}")


def run_name(folder: Path) -> str:
    """Returns the name of the run in ``folder``."""
    return folder.name or folder.resolve().name


def runs_folder(folder: Path) -> Path:
    """Returns the folder of all runs that contains the run in ``folder``."""
    return folder.parent if folder.name else folder.resolve().parent
