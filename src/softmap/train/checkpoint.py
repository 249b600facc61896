"""Checkpoints: whole or absent, verified when loaded, the last few kept.

A checkpoint is a folder ``<segment>-<step>`` (names sort in the order of training) with

    model.safetensors      parameters and persistent buffers
    optimizer.safetensors  the optimiser's state per parameter
    state.json             the loop's record, random states, size and SHA-256 of the files above

It is written under a temporary name, synced to the disk and renamed, so any folder under a final
name was once complete: the newest name is the pointer to the latest checkpoint, and no second
record can disagree with it. Damage after that is found by the hashes.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softmap.errors import SoftmapError
from softmap.files import fsync, sealed, share
from softmap.train import rng
from softmap.train.plan import Position
from softmap.train.tensors import (
    SafetensorError,
    load_optimizer,
    load_weights,
    save_optimizer,
    save_weights,
)

_FORMAT = "softmap checkpoint 1"
_STATE = "state.json"
_TEMPORARY = ".tmp-"


class BrokenCheckpoint(SoftmapError):
    """A checkpoint that is not what was once saved (as opposed to one of another run)."""


class Checkpoints:
    """The checkpoints of one run, in ``folder``; one process writes there at a time."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def path(self, position: Position) -> Path:
        """Where the state at ``position`` (segment, steps done) lies or would lie."""
        return self.folder / f"{position[0]:03d}-{position[1]:09d}"

    def newest_first(self) -> list[Path]:
        """The folders with a final name."""
        return sorted(
            (path for path in self.folder.glob("[0-9]*-[0-9]*") if path.is_dir()), reverse=True
        )

    def save(
        self,
        position: Position,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        record: dict[str, Any],
        pinned: Iterable[Position] = (),
    ) -> Path:
        """Saves everything at ``position``, then drops the oldest beyond ``keep`` and ``pinned``.

        Raises SoftmapError if it cannot be written (a full disk): what was there stays, the
        temporary folder does not.
        """
        final = self.path(position)
        temporary = self.folder / f"{_TEMPORARY}{final.name}"
        try:
            self._clear_temporary()
            temporary.mkdir(parents=True)
            _write(temporary, final.name, model, optimizer, record)
            if final.exists():  # a broken one, or the same state saved again
                shutil.rmtree(final)
            os.rename(temporary, final)
            fsync(self.folder)
        except (OSError, SafetensorError) as error:
            raise SoftmapError(
                f"checkpoint {final}: could not be written: {error}; last good: {self.last_good()}"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(final, {self.path(other) for other in pinned})
        return final

    def load(
        self, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> dict[str, Any]:
        """Verifies ``path``, loads model, optimiser and random states, returns the record.

        Raises BrokenCheckpoint (missing, truncated or altered files) or SoftmapError (whole, but of
        another model); model and optimiser are as before then, except where only the optimiser's
        part is foreign.
        """
        state = verify(path)
        load_weights(model, path / "model.safetensors")
        load_optimizer(model, optimizer, path / "optimizer.safetensors")
        rng.restore(state["rng"])
        return state["record"]

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its record, None if there are no checkpoints at all.

        Warns of each broken one that it passes over; raises BrokenCheckpoint if all are broken.
        """
        problems: list[BrokenCheckpoint] = []
        for path in self.newest_first():
            try:
                record = verify(path)["record"]
            except BrokenCheckpoint as problem:
                problems.append(problem)
                continue
            for broken in problems:
                warnings.warn(f"{broken}; going on from {path}", RuntimeWarning, stacklevel=3)
            return path, record
        if problems:
            raise problems[0]
        return None

    def last_good(self) -> str:
        """The newest whole checkpoint in words, for messages."""
        return next((str(path) for path in self.newest_first() if _is_whole(path)), "none")

    def _prune(self, newest: Path, pinned: set[Path]) -> None:
        folders = self.newest_first()
        at = folders.index(newest)
        # Those that sort after the newest are broken ones that a resume passed over.
        for path in folders[:at] + folders[at + self.keep :]:
            if path not in pinned:
                shutil.rmtree(path, ignore_errors=True)

    def _clear_temporary(self) -> None:
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


def verify(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint's state.json, once its files are known to be as saved.

    Raises BrokenCheckpoint naming the file, what was expected and what was found.
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


def _write(
    folder: Path,
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    record: dict[str, Any],
) -> None:
    save_weights(model, folder / "model.safetensors")
    save_optimizer(model, optimizer, folder / "optimizer.safetensors")
    files = sealed.checksums(folder, folder.iterdir())
    state = {
        "format": _FORMAT,
        "name": name,
        "files": files,
        "rng": rng.snapshot(),
        "record": record,
    }
    sealed.write_sealed(folder / _STATE, state)
    share(folder)
    for path in (*folder.iterdir(), folder):
        fsync(path)


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
