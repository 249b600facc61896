"""The files that a run writes and reads, and the lock on its folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softmap.errors import SoftmapError
from softmap.files import sealed, whole_folder, write


def write_json(path: Path, value: Any, *, seal: bool = True) -> None:
    """Write ``value`` as indented JSON; numbers that JSON lacks (nan, inf) become null.

    Args:
        seal: whether an object gets the hash by which [`read_json`][] detects changes.
    """
    if seal:
        sealed.write_sealed(path, _finite(value))
    else:
        text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
        write(path, text + "\n")


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write arrays as one compressed ``.npz``."""
    write(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def write_folder(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let ``fill`` write a folder under a temporary name; it replaces ``path`` when complete."""
    with whole_folder(path, replace=True) as folder:
        fill(folder)


def read_json(path: Path) -> Any:
    """Returns the JSON object in ``path`` as it was written, or None if there is no such file.

    Raises ``SoftmapError`` for anything else.
    """
    return sealed.read_sealed(path) if os.path.lexists(path) else None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock ``folder`` against other processes for the block.

    The kernel releases the lock when its process ends in whatever way, so no lock outlives its
    holder. Raises ``SoftmapError`` naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", errors="replace", opener=plain) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            raise SoftmapError(f"{folder}: process {holder} is writing this run") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [".lock"]:
                shutil.rmtree(folder)  # nothing was done here


def plain(path: str, flags: int) -> int:
    """Open a file to be overwritten; links and pipes are refused."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise SoftmapError(f"{path}: expected a plain file, found {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SoftmapError(f"{path}: expected a plain file, found something else")
    return descriptor


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
