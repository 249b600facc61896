"""Checks that the shards are still as they were written: after each change, and once a day.

``.verified`` in the folder keeps size, times and inode of the files when they were last read in
full. A change to a file changes one of them. Bits that change on the disk unnoticed by the system
do not, hence the daily check.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softmap.errors import SoftmapError
from softmap.files.sealed import read_sealed, write_sealed

STAMP = ".verified"
SECONDS = 24 * 3600
PIECE = 1 << 24  # bytes


def holds(folder: Path, names: Iterable[str], meta: dict[str, Any]) -> bool:
    """Returns whether the shards have the hash of ``meta`` and no id outside of its vocabulary."""
    paths = [folder / name for name in names]
    now = _stamp(paths, meta["hash"])
    if _is_fresh(folder / STAMP, now):
        return True
    if _hash(paths, meta) != meta["hash"]:
        return False
    with contextlib.suppress(SoftmapError):  # a read-only folder is fine
        write_sealed(folder / STAMP, {**now, "time": int(time.time())})
    return True


def hasher() -> Any:
    """Returns a hash object for the bytes of one file."""
    return hashlib.blake2b(digest_size=16)


def joined(dtype: np.dtype, files: Iterable[Any], weights: Sequence[int] = ()) -> str:
    """Returns the hash of all files, and of the weights of several parts."""
    mixed = map(str, weights) if len(weights) > 1 else ()
    text = ":".join([dtype.str, *(file.hexdigest() for file in files), *mixed])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _hash(paths: list[Path], meta: dict[str, Any]) -> str | None:
    """Returns the hash of the files; None where one holds an id outside of the vocabulary."""
    hashes, dtype = [hasher() for _ in paths], np.dtype(meta["dtype"])
    for path, own in zip(paths, hashes, strict=True):
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                own.update(piece)
                if len(piece) % dtype.itemsize:
                    return None
                if np.frombuffer(piece, dtype).max() >= meta["vocab_size"]:
                    return None
    return joined(dtype, hashes, meta.get("weights") or ())


def _stamp(paths: list[Path], expected: str) -> dict[str, Any]:
    stats = [os.stat(path) for path in paths]
    return {
        "hash": expected,
        "files": [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in stats],
    }


def _is_fresh(path: Path, now: dict[str, Any]) -> bool:
    try:
        before = read_sealed(path)
        return 0 <= time.time() - before.pop("time") < SECONDS and before == now
    except (SoftmapError, KeyError, TypeError):
        return False
