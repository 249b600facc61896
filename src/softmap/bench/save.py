"""A result file: what was measured, where, when and with which versions; written after every
case.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from softmap.errors import SoftmapError, reason
from softmap.lab import files
from softmap.lab.machine import provenance

FORMAT = 1
KINDS = ("op", "step", "decode")


class ResultFile:
    """The file of one call of the bench, complete on disk after each [`add`][]."""

    def __init__(
        self, kind: str, argv: Sequence[str], device: torch.device, out: Path | None, **facts: Any
    ) -> None:
        assert kind in KINDS
        self.out = out
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "kind": kind,
            "command": "softmap " + shlex.join(argv),
            **environment(device),
            **facts,
            "cases": [],
        }

    def add(self, case: dict[str, Any]) -> None:
        """Append a case and write the file."""
        self.content["cases"].append(case)
        if self.out is not None:
            files.write_json(self.out, self.content, seal=False)


def environment(device: torch.device) -> dict[str, Any]:
    """Returns the time, commit, machine and versions, compilers included."""
    found = provenance(device)
    found["versions"] |= {n: v for n, v in _compilers().items() if v}
    found["load_average"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return found


def _compilers() -> dict[str, str | None]:
    try:
        triton: str | None = metadata.version("triton")
    except metadata.PackageNotFoundError:
        triton = None
    return {"triton": triton, "cuda": torch.version.cuda, "compiler": _compiler()}


def _compiler() -> str | None:
    """Returns the first line of the C++ compiler's version."""
    name = os.environ.get("CXX") or next(
        (c for c in ("c++", "g++", "clang++") if shutil.which(c)), ""
    )
    try:
        said = subprocess.run(
            [name, "--version"], capture_output=True, text=True, check=True
        ).stdout
        return said.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def load(path: Path) -> dict[str, Any]:
    """Returns a result file; raises ``SoftmapError`` for one that is missing or not the bench's."""
    found = files.read_json(path)
    if found is None:
        raise SoftmapError(f"{path}: no such file; softmap bench op|step|decode --out writes one")
    if not isinstance(found, dict) or found.get("kind") not in KINDS:
        raise SoftmapError(f"{path}: expected a result of softmap bench, found something else")
    if found.get("format") != FORMAT:
        raise SoftmapError(f"{path}: expected format {FORMAT}, found {found.get('format')}")
    return found


@contextmanager
def drawing_from(path: Path) -> Iterator[None]:
    """Turn errors from a result with unexpected contents into one line that names it."""
    try:
        yield
    except SoftmapError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SoftmapError(
            f"{path}: expected a result as softmap bench writes it, found another ({reason(error)})"
        ) from error
