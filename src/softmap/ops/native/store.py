"""The folder of built libraries: complete or absent, one builder at a time, the newest few."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from softmap.files.cache import folder, locked

KEPT = 8  # builds; each version of PyTorch, the compiler and the sources makes one


def library(name: str, make: Callable[[Path], None]) -> Path:
    """Returns the path of the library ``name``; if the folder lacks it, or holds a part of it,
    ``make(path)`` is called first. Raises ``OSError`` where the folder cannot be written.
    """
    path = folder() / f"{name}.so"
    if not _whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent / "native.lock"):
            if not _whole(path):  # another process may have made it while this one waited
                _make(path, make)
    with contextlib.suppress(OSError):  # a folder that may only be read will do
        os.utime(path)
    return path


def _make(path: Path, make: Callable[[Path], None]) -> None:
    for left in path.parent.glob("building-*"):  # by a builder that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as at:
        made, mark = Path(at) / path.name, Path(at) / "sha256"
        make(made)
        mark.write_text(_digest(made))
        for new, old in ((made, path), (mark, path.with_suffix(".sha256"))):
            if old.is_dir():  # nothing of ours: it would be in the way of every build
                shutil.rmtree(old)
            os.replace(new, old)
    _forget_old(path.parent)


def _whole(path: Path) -> bool:
    """Whether the library matches its checksum: one that was cut short would crash the process."""
    try:
        return path.with_suffix(".sha256").read_bytes() == _digest(path).encode()
    except OSError:
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _forget_old(at: Path) -> None:
    """Remove old libraries; a process that uses one keeps it until it ends."""
    by_use = sorted(at.glob("native-*.so"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in by_use[KEPT:]:
        path.unlink(missing_ok=True)
        path.with_suffix(".sha256").unlink(missing_ok=True)
