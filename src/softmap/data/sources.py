"""Where text comes from. Each source says what it is and when it changed, and yields documents."""

from __future__ import annotations

import codecs
import gzip
import os
import platform
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from softmap.data.config import DataConfig
from softmap.data.records import Document, parse_hf, read_hf, read_jsonl, read_parquet
from softmap.errors import SoftmapError, reason, shown

WHOLE = 16 << 20  #: bytes of the largest text file that is one document
PART = 1 << 20  #: bytes of a document out of a larger one
LARGEST = 1 << 62  #: bytes that are read from a file where no limit is given
STDLIB_SKIPS = {"test", "tests", "idle_test", "site-packages", "dist-packages"}


class Source(Protocol):
    """Text as an ordered stream of documents."""

    description: str
    skipped: list[str]

    @property
    def identity(self) -> Any:
        """A JSON value that is equal as long as the text counts as unchanged."""

    @property
    def size(self) -> int | None:
        """The bytes of text, None where only reading would tell."""

    def documents(self) -> Iterator[Document]:
        """Yields the documents in a fixed order; ``skipped`` names the files skipped so far."""


@dataclass
class FileSource:
    """Files in the order of their relative paths; a text file is a document, a large one many.

    ``identity`` lists path, size and modification time, as make does: hashing the contents would
    read the whole corpus before every run. An edit that keeps both is missed, and a mere touch
    costs a rebuild; the hash of the tokens in ``Corpus.meta`` distinguishes contents in any case.

    Attributes:
        tolerant: skip unreadable files, where the user did not name them.
    """

    description: str
    root: Path
    paths: list[Path]
    config: DataConfig
    tolerant: bool = False
    skipped: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        try:
            self._stats = [path.stat() for path in self.paths]
        except OSError as error:
            raise SoftmapError(f"{error.filename}: cannot be read ({error.strerror})") from None

    @property
    def identity(self) -> Any:
        """The root, and the path, size and modification time of every file."""
        return str(self.root), [
            (self._name(path), stat.st_size, stat.st_mtime_ns)
            for path, stat in zip(self.paths, self._stats, strict=True)
        ]

    @property
    def size(self) -> int | None:
        """The bytes of text; None where compressed files or records would have to be read."""
        if any(_is_records(path) or _is_gzip(path) for path in self.paths):
            return None
        size = sum(stat.st_size for stat in self._stats)
        return min(size, self.config.max_bytes or size)

    def documents(self) -> Iterator[Document]:
        """Yields the documents, file by file."""
        self.skipped = []
        for path in self.paths:
            if _is_records(path):
                read = read_parquet if path.suffix == ".parquet" else read_jsonl
                yield from read(path, self._name(path), self.config.field)
            else:
                yield from self._texts(path)

    def _name(self, path: Path) -> str:
        return path.name if path == self.root else path.relative_to(self.root).as_posix()

    def _texts(self, path: Path) -> Iterator[Document]:
        number = 0
        try:
            for text in read_text(path, self.config.max_bytes):
                number += 1
                yield self._name(path) + (f":{number}" if number > 1 else ""), text
        except UnicodeDecodeError:
            if number:
                where = f"after {number * PART:,} bytes"
                raise SoftmapError(
                    f"{path}: expected utf-8 text, found other bytes {where}"
                ) from None
            if path == self.root:
                expected = "utf-8 text, .jsonl, .parquet, or .gz of the first two"
                raise SoftmapError(f"{path}: binary; expected {expected}") from None
            self.skipped.append(self._name(path))
        except (OSError, EOFError, zlib.error) as error:
            if not self.tolerant:
                raise SoftmapError(f"{path}: cannot be read ({reason(error)})") from None
            self.skipped.append(self._name(path))


@dataclass
class HfSource:
    """A data set streamed by ``datasets``.

    A local folder is checked file by file. A Hub data set counts as unchanged once prepared, so
    that a run can be repeated without a network; remove the cache folder to read it again.
    """

    description: str
    spec: str
    config: DataConfig
    skipped: list[str] = field(default_factory=list, init=False)
    size: int | None = None

    @property
    def identity(self) -> Any:
        """The name, and for a local folder also the identity of its files."""
        folder = Path(parse_hf(self.spec)[0])
        if not folder.is_dir():
            return self.spec
        return self.spec, FileSource("", folder.resolve(), walk(folder), self.config).identity

    def documents(self) -> Iterator[Document]:
        """Returns the documents as ``datasets`` streams them."""
        return read_hf(self.spec, self.config.field)


def _is_records(path: Path) -> bool:
    return path.name.endswith((".jsonl", ".jsonl.gz", ".parquet"))


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"


def read_text(path: Path, limit: int | None = None) -> Iterator[str]:
    """Yields the first ``limit`` bytes of a utf-8 file or of the text in a ``.gz``, cut at a
    character.

    Up to ``WHOLE`` bytes are one text; more come in parts of about ``PART``, which end at a line
    break where there is one. Raises ``UnicodeDecodeError`` for a binary file.
    """
    decoder, rest = codecs.getincrementaldecoder("utf-8-sig")(), ""
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        size = _size(path)
        left = start = limit or LARGEST
        step = min(left, size) if min(left, size) <= WHOLE else PART
        while data := file.read(min(step, left)):
            if left == start and b"\0" in data[:8192]:
                raise UnicodeDecodeError("utf-8", b"\0", 0, 1, "binary")
            left -= len(data)
            ends = not file.peek(1)
            text = rest + decoder.decode(data, final=ends)
            cut = (0 if ends or not left else text.rfind("\n") + 1) or len(text)
            rest = text[cut:]
            yield text[:cut]


def _size(path: Path) -> int:
    """Returns the bytes of a file's text; gzip states them modulo 2^32, and for its last part
    only.
    """
    size = path.stat().st_size
    if not _is_gzip(path) or size < 4:
        return size
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return max(int.from_bytes(file.read(4), "little"), size)


def walk(folder: Path) -> list[Path]:
    """Returns the regular files below a folder by relative path; hidden ones, such as ``.git``,
    are left out.
    """
    folder = folder.resolve()
    paths = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in {"CVS", "_darcs"}]
        found = (Path(parent, name) for name in files if not name.startswith("."))
        paths += [path for path in found if path.is_file()]
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix())


def _stdlib(config: DataConfig) -> FileSource:
    root = Path(sysconfig.get_path("stdlib")).resolve()
    paths = [path for path in walk(root) if _is_library(path.relative_to(root))]
    name = f"Python {platform.python_version()} standard library"
    return FileSource(name, root, paths, config, tolerant=True)


def _is_library(path: Path) -> bool:
    # Files of the build (_sysconfigdata*, config-*/) contain paths of one machine; without them
    # the same Python gives the same corpus everywhere.
    built = path.name.startswith("_sysconfigdata") or path.parts[0].startswith("config-")
    return path.suffix == ".py" and not built and not STDLIB_SKIPS.intersection(path.parts)


def open_source(config: DataConfig) -> Source:
    """Returns the one source that ``config.data`` names; nothing of it is read yet.

    Raises:
        SoftmapError: there is no such file or folder, or the ``hf:`` name is malformed.
    """
    assert isinstance(config.data, str), "a mixture has several"
    if config.data == "stdlib":
        return _stdlib(config)
    if config.data.startswith("hf:"):
        spec = config.data.removeprefix("hf:")
        parse_hf(spec)
        return HfSource(config.data, spec, config)
    try:
        path = Path(config.data).expanduser()
        if path.is_dir():
            return FileSource(config.data, path.resolve(), walk(path), config)
        if path.is_file():
            return FileSource(config.data, path.resolve(), [path.resolve()], config)
        found = "one that is neither" if path.exists() else "none"
    except (OSError, RuntimeError) as error:  # too long a name, a link to itself, no such user
        found = reason(error)
    raise SoftmapError(
        f"data: expected 'stdlib', 'hf:NAME', a file or a folder at {shown(config.data, 300)}, "
        f"found {found}"
    )
