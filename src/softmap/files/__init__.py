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
    """A folder beside ``path`` that takes its name when the block ends, or is gone.

    Its files get the modes of any new file here, whatever they were made with. replace: whether a
    folder that is there already, and not empty, goes.
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
    """Gives the files in ``folder`` its own mode; safetensors, for one, makes them private."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def sweep(folder: Path, pattern: str = "**/.*.[0-9]*.tmp") -> None:
    """Removes what killed processes left in ``folder``; what a living one holds stays.

    A folder that was about to be replaced, and was not, gets its name back.
    """
    for left in list(folder.glob(pattern)):
        with _hold(left) as mine:
            if mine:
                _clear(left)


def _exchange(new: Path, path: Path) -> None:
    """No system's rename replaces a folder with files in it: the old one is aside for a moment."""
    aside = _beside(path, OLD)
    with _hold(path):  # follows it to its other name
        try:
            os.replace(path, aside)
            os.replace(new, path)
        finally:
            _clear(aside)


def _clear(left: Path) -> None:
    """Removes what a write left; an old folder whose name nothing has taken gets it back."""
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
    """A file or folder beside ``path``, held while the block runs, gone afterwards."""
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
    """Holds a lock on ``path`` while this process lives; False where another one does."""
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
