"""Reads back what was written: strict, sealed JSON, and files that match their checksums.

A sealed JSON object holds under ``sha256`` the hash of all its other entries, so that a change is
found; an object without that key (an older one, or one written by hand) is accepted. Other files
are listed with their size and hash in a sealed object. Whatever is wrong becomes one
[`SoftmapError`][softmap.errors.SoftmapError] that names the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.files import write

SEAL = "sha256"
CHECKSUMS = "checksums.json"  #: of a folder's other files

Sums = dict[str, list[Any]]
"""{path inside the folder: [bytes, SHA-256]}"""


def read_bytes(path: Path) -> bytes:
    """Returns the contents of a regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise SoftmapError(f"{path}: expected a file, found something else")
        return path.read_bytes()
    except OSError as error:
        raise SoftmapError(f"{path}: expected a file, found {error.strerror}") from None


def parse_json(data: bytes) -> Any:
    """Returns JSON in UTF-8 with finite numbers and no repeated key; raises ``ValueError`` in
    one line.
    """
    try:
        return json.loads(
            data.decode(), object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError:
        raise ValueError("lists or objects that are nested too deeply") from None


def read_json(path: Path) -> Any:
    """Returns the JSON in ``path``, read by [`parse_json`][]."""
    try:
        return parse_json(read_bytes(path))
    except SoftmapError:
        raise
    except ValueError as error:
        raise SoftmapError(f"{path}: broken file: expected JSON, found {error}") from None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` as indented JSON with its seal."""
    plain = json.loads(json.dumps(value, allow_nan=False))
    made = {**plain, SEAL: seal(plain)}
    write(path, json.dumps(made, indent=1, ensure_ascii=False, allow_nan=False))


def read_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in ``path``."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise SoftmapError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """Returns the JSON object in ``path`` without its seal, which must be right if there is one."""
    value = read_object(path)
    found = value.pop(SEAL, None)
    if found is not None and found != seal(value):
        raise SoftmapError(
            f"{path}: expected the contents as saved, found them altered "
            f"(take out its {SEAL!r} if you have changed it yourself)"
        )
    return value


def seal(value: Mapping[str, Any]) -> str:
    """Returns the hash of a JSON object, which does not depend on its layout."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, paths: Iterable[Path]) -> Sums:
    """Returns size and hash of the files in ``folder``."""
    found = sorted((path.relative_to(folder).as_posix(), path) for path in paths)
    return {name: [path.stat().st_size, digest(path)] for name, path in found}


def difference(path: Path, size: Any, expected: Any) -> str | None:
    """Returns what is wrong with a file of that size and hash, to follow its name; None if
    nothing is.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return f"expected {size} bytes, found no file"
        if path.stat().st_size != size:
            return f"expected {size} bytes, found {path.stat().st_size} (truncated?)"
        found = digest(path)
    except FileNotFoundError:
        return f"expected {size} bytes, found no file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found != expected:
        return f"expected SHA-256 {str(expected)[:12]}…, found {found[:12]}… (corrupt)"
    return None


def verify(folder: Path, sums: Any, where: Path, pattern: str = "*") -> None:
    """Compare the files of ``folder`` whose names match ``pattern`` with ``sums``, which
    ``where`` holds.
    """
    if not _are_sums(sums):
        raise SoftmapError(f"{where}: expected sizes and hashes of files, found others")
    for name, (size, expected) in sums.items():
        problem = difference(folder / name, size, expected) if fnmatch(name, pattern) else None
        if problem is not None:
            raise SoftmapError(f"{folder / name}: {problem}, by {where.name}")


def seal_folder(folder: Path) -> None:
    """Write the checksums of all files in ``folder`` into it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS]
    write_sealed(folder / CHECKSUMS, {"files": checksums(folder, paths)})


def verify_folder(folder: Path, pattern: str = "*") -> None:
    """Compare a folder's files with its checksums, if it has them."""
    listed = folder / CHECKSUMS
    if listed.is_symlink() or listed.exists():
        verify(folder, read_sealed(listed).get("files"), listed, pattern)


def _are_sums(sums: Any) -> bool:
    """Whether this is a table of names inside a folder, with size and hash."""
    return isinstance(sums, dict) and all(
        isinstance(entry, list)
        and [type(part) for part in entry] == [int, str]
        and not Path(name).is_absolute()
        and ".." not in Path(name).parts
        for name, entry in sums.items()
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20}, which is not finite")
    return value
