"""Where a run's metrics go: always ``train.jsonl``, and other trackers on request."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from softmap.errors import SoftmapError, nearest
from softmap.files import write, writing
from softmap.files.sealed import parse_json, read_bytes
from softmap.train.plan import Position

Metrics = Mapping[str, float]
Sum = list[Any]
"""[bytes, SHA-256]"""


class Tracker(Protocol):
    """A receiver of metrics; each call has at least ``step``."""

    def log(self, metrics: Metrics) -> None:
        """Takes the metrics of one logged step."""

    def close(self) -> None:
        """Ends the run there."""


class JsonlTracker:
    """One JSON object per line, written as it comes.

    Lines after the position ``resume_at`` (steps that will be made again) and a torn last line are
    dropped first, so a step never appears twice. ``kept``, of a checkpoint, is what [`sum`][] was
    when it was saved: the lines up to there must be the same, or ``SoftmapError`` is raised.
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
        """Size and SHA-256 of the log so far."""
        return [self._size, self._hash.hexdigest()]

    def log(self, metrics: Metrics) -> None:
        """Appends a line with these metrics."""
        line = json.dumps(dict(metrics)).encode() + b"\n"
        with writing(self._path):
            self._file.write(line)
        self._size += len(line)
        self._hash.update(line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _verified(path: Path, data: bytes, kept: Sum) -> bytes:
    if [len(data), hashlib.sha256(data).hexdigest()] != kept:
        raise SoftmapError(
            f"{path}: expected the {kept[0]} bytes that the checkpoint knows, found others; "
            f"remove {path.parent} to begin again"
        )
    return data


def _not_after(line: bytes, position: Position) -> bool:
    try:
        metrics = parse_json(line)
        return (metrics["segment"], metrics["step"]) <= position
    except (ValueError, KeyError, TypeError):
        return False


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._writer = _load("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def log(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, int(metrics["step"]))

    def close(self) -> None:
        self._writer.close()


class _WandbLike:
    """wandb, or trackio, which has the same calls."""

    def __init__(self, module: Any, project: str, run: str) -> None:
        self._module = module
        module.init(project=project, name=run)

    def log(self, metrics: Metrics) -> None:
        self._module.log(dict(metrics), step=int(metrics["step"]))

    def close(self) -> None:
        self._module.finish()


def open_tracker(name: str, *, folder: Path, run: str, project: str = "softmap") -> Tracker:
    """``"tensorboard"`` (writes to ``folder``), ``"wandb"`` or ``"trackio"``, loaded only now.

    After a resume they may be told steps a second time: what they store is theirs to replace.
    Raises SoftmapError for another name or a package that is not installed.
    """
    if name == "tensorboard":
        return _TensorBoard(folder)
    if name in ("wandb", "trackio"):
        return _WandbLike(_load(name, name), project, run)
    known = ("tensorboard", "wandb", "trackio")
    raise SoftmapError(
        f"tracker: expected one of {', '.join(known)}, found {name!r}" + nearest(name, known)
    )


def _load(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SoftmapError(
            f"tracker {package}: expected the package to be installed (pip install {package}), "
            f"found none"
        ) from error
