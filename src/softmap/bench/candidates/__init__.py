"""All candidates: the subclasses of [`Candidate`][] in the files of this folder."""

from __future__ import annotations

import importlib
import pkgutil

from softmap.bench.candidates._base import Candidate, Runner

__all__ = ["Candidate", "Runner", "candidates"]


def candidates() -> list[Candidate]:
    """Returns all candidates of the folder's files, ours first."""
    found: list[Candidate] = []
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{info.name}")
            for kind in vars(module).values():
                if isinstance(kind, type) and kind.__module__ == module.__name__:
                    found += kind.all() if issubclass(kind, Candidate) else []
    return sorted(found, key=lambda c: not c.ours)
