"""Where a run's metrics go: always ``train.jsonl``, and other trackers on request."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from softmap.errors import SoftmapError, nearest
from softmap.files import write, writing
from softmap.train.plan import Position

Metrics = Mapping[str, float]


class Tracker(Protocol):
    """A receiver of metrics; each call has at least ``step``."""

    def log(self, metrics: Metrics) -> None:
        """Takes the metrics of one logged step."""

    def close(self) -> None:
        """Ends the run there."""


class JsonlTracker:
    """One JSON object per line, written as it comes.

    Lines after the position ``resume_at`` (steps that will be made again) and a torn last line are
    dropped first, so a step never appears twice.
    """

    def __init__(self, path: Path, resume_at: Position) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line for line in lines if _not_after(line, resume_at)]
        write(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._file = path.open("ab", buffering=0)  # no buffer that a full disk leaves half written

    def log(self, metrics: Metrics) -> None:
        with writing(self._path):
            self._file.write(json.dumps(dict(metrics)).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _not_after(line: str, position: Position) -> bool:
    try:
        metrics = json.loads(line)
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
