"""Files and folders that are whole or absent under their final name, whatever happens.

After a crash, an interrupt or a full disk the old ones are intact. What a killed process leaves is
a ``.NAME.PID-*.tmp``, which the next call removes, or a ``.NAME.PID-*.old.tmp``, a folder about to
be replaced, which it puts back: a process holds a lock on its own, and the kernel drops it with the
process. An ``OSError`` becomes one line that names the path.
``softmap.files.sealed`` reads what was written, and finds damage.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from softmap.errors import SoftmapError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and nothing swept
    fcntl = None  # type: ignore[assignment]

OLD = ".old.tmp"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError (full disk, no permission) into a SoftmapError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise SoftmapError(f"{path}: could not be written: {reason}") from error


def fsync(path: Path) -> None:
    """Write a file's contents, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes | Callable[[BinaryIO], Any]) -> None:
    """Replace ``path`` by a text (UTF-8), by bytes, or by what a function writes to a file."""
    with writing(path), _temporary(path, Path.touch) as temporary:
        with temporary.open("r+b") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def check_writable(path: Path) -> None:
    """Raise ``SoftmapError`` unless [`write`][] could put a file at ``path``; leaves nothing."""
    with writing(path):
        if path.exists() and not path.is_file():  # a folder; /dev/null would be replaced
            raise SoftmapError(f"{path}: expected a file or nothing there, found something else")
        made = [folder for folder in path.parents if not folder.exists()]
        try:
            with _temporary(path, Path.touch):
                pass
        finally:
            for folder in made:
                with contextlib.suppress(OSError):
                    folder.rmdir()


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the name ``path`` when the block ends, or is removed
    if it fails.

    Its files get the modes of any new file here, whatever they were created with.

    Args:
        replace: whether a folder that exists and is not empty may be replaced.
    """
    with writing(path), _temporary(path, Path.mkdir) as temporary:
        yield temporary
        share(temporary)
        for inside in [*temporary.rglob("*"), temporary]:
            fsync(inside)
        if replace and path.exists():
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)


def share(folder: Path) -> None:
    """Give the files in ``folder`` its own mode; safetensors, for one, makes them private."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def sweep(folder: Path, pattern: str = "**/.*.[0-9]*.tmp") -> None:
    """Remove what killed processes left in ``folder``; what a living one holds stays.

    A folder that was about to be replaced, and was not, gets its name back.
    """
    for left in list(folder.glob(pattern)):
        with _hold(left) as mine:
            if mine:
                _clear(left)


def _exchange(new: Path, path: Path) -> None:
    """Replace a folder: no system's rename can do that with files in it, so the old one is
    moved aside for a moment.
    """
    aside = _beside(path, OLD)
    with _hold(path):  # follows it to its other name
        try:
            os.replace(path, aside)
            os.replace(new, path)
        finally:
            _clear(aside)


def _clear(left: Path) -> None:
    """Remove what a write left; an old folder whose name is free gets it back."""
    path = left.parent / left.name[1:].removesuffix(OLD).rpartition(".")[0]
    if left.name.endswith(OLD) and not os.path.lexists(path):
        with contextlib.suppress(OSError):
            os.replace(left, path)
    else:
        _remove(left)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{ending}")


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a file or folder beside ``path``, locked while the block runs and removed
    afterwards.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, f".{glob.escape(path.name)}.[0-9]*.tmp")
    temporary = _beside(path, ".tmp")
    try:
        make(temporary)
        with _hold(temporary):
            yield temporary
    finally:
        _remove(temporary)
    fsync(path.parent)


@contextmanager
def _hold(path: Path) -> Iterator[bool]:
    """Lock ``path`` for the life of this process; returns False where another one holds it."""
    if fcntl is None:
        yield False
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
