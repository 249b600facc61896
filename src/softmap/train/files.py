"""Files that are whole or absent under their final name, also after a crash or on a full disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softmap.errors import SoftmapError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError (full disk, no permission) into a SoftmapError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise SoftmapError(f"{path}: could not be written: {error.strerror}") from error


def fsync(path: Path) -> None:
    """Puts a file's contents, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replaces ``path`` atomically. On an error (SoftmapError) the old file stays, alone."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with writing(path):
        try:
            temporary.write_text(text, encoding="utf-8")
            fsync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)
