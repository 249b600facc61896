"""``train.jsonl``: what every run logs, one line a logged step, checked against its checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.files import write, writing
from softmap.files.sealed import parse_json, read_bytes
from softmap.train.plan import Position

Metrics = Mapping[str, float]
Sum = list[Any]
"""[bytes, SHA-256]"""


class JsonlTracker:
    """Writes one JSON object per line, as soon as it comes.

    Lines after the position ``resume_at`` (steps that will be repeated) and an incomplete last line
    are removed first, so no step appears twice. ``kept``, from a checkpoint, is what :attr:`sum`
    was when that was saved: the lines up to there must be the same, or ``SoftmapError`` is raised.
    """

    def __init__(self, path: Path, resume_at: Position, kept: Sum | None = None) -> None:
        data = read_bytes(path) if path.exists() else b""
        if kept is None:
            lines = [line for line in data.splitlines() if _not_after(line, resume_at)]
            data = b"".join(line + b"\n" for line in lines)
        else:
            data = _verified(path, data[: kept[0]], kept)
        write(path, data)
        self._path, self._size, self._hash = path, len(data), hashlib.sha256(data)
        self._file = path.open("ab", buffering=0)  # no buffer that a full disk leaves half written

    @property
    def sum(self) -> Sum:
        """The size and SHA-256 of the log so far."""
        return [self._size, self._hash.hexdigest()]

    def log(self, metrics: Metrics) -> None:
        """Append one line, in a single write."""
        line = json.dumps(dict(metrics)).encode() + b"\n"
        with writing(self._path):
            self._file.write(line)
        self._size += len(line)
        self._hash.update(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _verified(path: Path, data: bytes, kept: Sum) -> bytes:
    if [len(data), hashlib.sha256(data).hexdigest()] != kept:
        raise SoftmapError(
            f"{path}: expected the {kept[0]} bytes that the checkpoint recorded, found others; "
            f"remove {path.parent} to start over"
        )
    return data


def _not_after(line: bytes, position: Position) -> bool:
    try:
        metrics = parse_json(line)
        return (metrics["segment"], metrics["step"]) <= position
    except (ValueError, KeyError, TypeError):
        return False
