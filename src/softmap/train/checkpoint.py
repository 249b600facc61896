"""Checkpoints: complete or absent, verified when loaded, the last few kept.

A checkpoint is a folder ``<segment>-<step>`` (names sort in the order of training) with

    model.safetensors      parameters and persistent buffers
    optimizer.safetensors  the optimiser's state per parameter
    state.json             the loop's record, random states, size and SHA-256 of the files above

Several ranks write one ``shard-*.safetensors`` each instead, with what they hold of both, by
``torch.distributed.checkpoint``; any number of ranks can read either form.

It is written under a temporary name, synced to the disk and renamed, so any folder with a final
name was complete at one time: the newest name is the pointer to the latest checkpoint, and no
second record can disagree with it. The hashes find later damage.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from softmap.errors import SoftmapError
from softmap.files import fsync, sealed, share
from softmap.train import rng
from softmap.train.parallel import Parallel
from softmap.train.plan import Position
from softmap.train.tensors import (
    SafetensorError,
    load_optimizer,
    load_shards,
    load_weights,
    save_optimizer,
    save_shards,
    save_weights,
)

_FORMAT = "softmap checkpoint 1"
_WEIGHTS, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"
_TEMPORARY = ".tmp-"
FOLDER = "checkpoints"  #: the subfolder of a training that holds them

T = TypeVar("T")


class BrokenCheckpoint(SoftmapError):
    """Raised for a checkpoint that is not as it was saved (as opposed to one of another run)."""


class Checkpoints:
    """The checkpoints of one run in ``folder``, which all its ranks see; one run at a time writes
    there.

    All ranks call ``save`` and ``load`` together.
    """

    def __init__(self, folder: Path, keep: int = 2, parallel: Parallel | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.parallel = parallel or Parallel(torch.device("cpu"))

    def path(self, position: Position) -> Path:
        """Returns the folder of the state at ``position`` (segment, steps done), whether it exists
        or not.
        """
        return self.folder / f"{position[0]:03d}-{position[1]:09d}"

    def newest_first(self) -> list[Path]:
        """Returns the folders that have a final name, the newest first."""
        return _newest_first(self.folder)

    def save(
        self,
        position: Position,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        record: dict[str, Any],
        pinned: Iterable[Position] = (),
        own: Mapping[str, Any] | None = None,
    ) -> Path:
        """Save everything at ``position``, then delete the oldest checkpoints beyond ``keep``.

        Args:
            pinned: positions whose checkpoints are not deleted.
            own: what is kept for this rank alone, beside its random states.

        Raises SoftmapError if it cannot be written (a full disk, for example); earlier checkpoints
        stay, the temporary folder is removed.
        """
        final = self.path(position)
        temporary = self.folder / f"{_TEMPORARY}{final.name}"
        named = partial(self._naming, final)
        try:
            self.parallel.by_first(named(self._begin, temporary))
            self.parallel.together(lambda: _check_seen(temporary, self.parallel.rank))
            write = named(self._write_part, temporary, model, optimizer, own or {})
            parts = self.parallel.together(write)
            self.parallel.by_first(named(self._publish, temporary, final, record, parts))
        finally:
            if self.parallel.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        keep = {self.path(other) for other in pinned}
        self.parallel.by_first(lambda: self._prune(final, keep))
        return final

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Verify ``path``, load model, optimiser and random states, and return the record.

        With as many ranks as saved it, each gets its own random states back. Raises
        BrokenCheckpoint (missing, truncated or altered files) or SoftmapError (an intact checkpoint
        of another model). Model and optimiser then stay as they were, unless only the optimiser's
        part belongs to another model.
        """
        state = self.parallel.by_first(lambda: verify(path))
        self.parallel.together(lambda: _check_seen(path, self.parallel.rank))
        alone = self.parallel.ranks == 1
        if alone and (path / _WEIGHTS).exists():
            load_weights(model, path / _WEIGHTS)
            load_optimizer(model, optimizer, path / _OPTIMIZER)
        else:
            load_shards(model, optimizer, path, alone=alone)
        mine = self._own(state)
        if mine is not None:
            rng.restore(mine["rng"])
        record: dict[str, Any] = state["record"]
        return record

    def own(self, path: Path) -> dict[str, Any] | None:
        """Returns what was kept for this rank; None if other numbers of ranks or older code
        saved it.
        """
        return self._own(_read_state(path / _STATE))

    def _own(self, state: dict[str, Any]) -> dict[str, Any] | None:
        ranks: list[dict[str, Any]] = state.get("ranks") or [{"rng": state["rng"]}]
        return ranks[self.parallel.rank] if len(ranks) == self.parallel.ranks else None

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """Returns the newest intact checkpoint and its record, None if there are no checkpoints.

        Warns of each broken one that it skips; raises BrokenCheckpoint if all are broken.
        """
        return self.parallel.by_first(self._latest)

    def _latest(self) -> tuple[Path, dict[str, Any]] | None:
        problems: list[BrokenCheckpoint] = []
        for path in self.newest_first():
            try:
                record = verify(path)["record"]
            except BrokenCheckpoint as problem:
                problems.append(problem)
                continue
            for broken in problems:
                warnings.warn(f"{broken}; continuing from {path}", RuntimeWarning, stacklevel=3)
            return path, record
        if problems:
            raise problems[0]
        return None

    def last_good(self) -> str:
        """Returns the path of the newest intact checkpoint, or "none", for messages."""
        return next((str(path) for path in self.newest_first() if _is_whole(path)), "none")

    def _prune(self, newest: Path, pinned: set[Path]) -> None:
        folders = self.newest_first()
        at = folders.index(newest)
        # Those that sort after the newest are broken ones that a resume skipped.
        for path in folders[:at] + folders[at + self.keep :]:
            if path not in pinned:
                shutil.rmtree(path, ignore_errors=True)

    def _begin(self, temporary: Path) -> None:
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)
        temporary.mkdir(parents=True)

    def _write_part(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        own: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write this rank's part; returns what the state file says of it, ``files`` with their
        hashes.
        """
        if self.parallel.ranks == 1:
            save_weights(model, folder / _WEIGHTS)
            save_optimizer(model, optimizer, folder / _OPTIMIZER)
            files = list(folder.iterdir())
        else:
            save_shards(model, optimizer, folder)
            files = list(folder.glob(f"shard-{self.parallel.rank + 1:05d}-*"))
        for path in files:
            fsync(path)
        return {"rng": rng.snapshot(), **own, "files": sealed.checksums(folder, files)}

    def _publish(
        self, temporary: Path, final: Path, record: dict[str, Any], parts: list[dict[str, Any]]
    ) -> None:
        """Write the state file and give the folder its final name; the first rank does so alone."""
        state = {
            "format": _FORMAT,
            "name": final.name,
            "files": {name: found for part in parts for name, found in part.pop("files").items()},
            "ranks": parts,
            "record": record,
        }
        sealed.write_sealed(temporary / _STATE, state)
        share(temporary)
        for path in (temporary / _STATE, temporary):
            fsync(path)
        if final.exists():  # a broken one, or the same state saved again
            shutil.rmtree(final)
        os.rename(temporary, final)
        fsync(self.folder)

    def _naming(self, final: Path, do: Callable[..., T], *given: Any) -> Callable[[], T]:
        """Returns a call of ``do`` that names the checkpoint in one line if writing fails."""

        def run() -> T:
            try:
                return do(*given)
            except (OSError, SafetensorError) as error:
                raise SoftmapError(
                    f"checkpoint {final}: could not be written: {error}; last good: "
                    f"{self.last_good()}"
                ) from error

        return run


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir()), reverse=True)


def reached(directory: Path) -> str:
    """Returns the name of the newest checkpoint of the training in ``directory``, "" if there is
    none.

    Names sort in the order of training, so they tell whether a training has made progress.
    """
    return next((path.name for path in _newest_first(directory / FOLDER)), "")


def verify(path: Path) -> dict[str, Any]:
    """Returns the contents of a checkpoint's state.json after checking that its files are as saved.

    Raises BrokenCheckpoint with the file, what was expected and what was found.
    """
    state = _read_state(path / _STATE)
    if state.get("name", path.name) != path.name:
        raise BrokenCheckpoint(f"{path}: expected that checkpoint, found {state['name']}")
    for name, (size, digest) in state["files"].items():
        problem = sealed.difference(path / name, size, digest)
        if problem is not None:
            raise BrokenCheckpoint(f"{path / name}: {problem}")
    return state


def _is_whole(path: Path) -> bool:
    try:
        verify(path)
    except BrokenCheckpoint:
        return False
    return True


def _check_seen(folder: Path, rank: int) -> None:
    if not folder.is_dir():
        raise SoftmapError(
            f"rank {rank} cannot see {folder}: expected a folder that all processes share, found "
            "one on the first machine only"
        )


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = sealed.read_object(file)
    except SoftmapError as error:
        raise BrokenCheckpoint(str(error)) from error
    if state.get("format") != _FORMAT:
        found = state.get("format")
        raise BrokenCheckpoint(f"{file}: expected format {_FORMAT!r}, found {found!r}")
    if state.pop(sealed.SEAL, None) != sealed.seal(state):
        raise BrokenCheckpoint(f"{file}: expected the contents as saved, found them altered")
    return state
