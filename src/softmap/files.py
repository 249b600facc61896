"""Files and folders that are whole or absent under their final name, whatever happens.

After a crash, an interrupt or a full disk the old ones are intact and nothing else is left over. An
``OSError`` becomes one line that names the path.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from softmap.errors import SoftmapError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError (full disk, no permission) into a SoftmapError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise SoftmapError(f"{path}: could not be written: {reason}") from error


def fsync(path: Path) -> None:
    """Puts a file's contents, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    """Replaces ``path`` by a text (UTF-8), by bytes, or by what a function writes to a file."""
    temporary = _beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside ``path`` that takes its name when the block ends, or is gone.

    replace: whether a folder that is there already, and not empty, goes.
    """
    temporary = _beside(path)
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for inside in [*temporary.rglob("*"), temporary]:
                fsync(inside)
            if replace:
                shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        fsync(path.parent)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
