"""Finds the function of a variant by name: shipped, or in a file or module of the user's own."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import traceback
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

from softmap.errors import SoftmapError, nearest, shown
from softmap.variants._guard import untouched
from softmap.variants._parts import Parts
from softmap.variants._text import Spec
from softmap.variants._trust import located


def names() -> list[str]:
    """Returns the names of all variants that ship with softmap."""
    return list(_shipped())


def find(name: str, spec: Spec = "") -> Callable[..., Parts]:
    """Returns the variant function of that name, shipped or ``where:name``, which ``spec`` may
    locate.
    """
    if ":" in name:
        where, _, own = name.rpartition(":")
        if not _is_place(where) or not own:
            raise SoftmapError(
                f"cannot read variant {shown(name)}: expected FILE.py:NAME or MODULE:NAME"
            )
        return _outside(where, located(where, spec), own)
    found = _shipped().get(name)
    if found is None and "." in name:
        raise SoftmapError(
            f"variant {shown(name)} names a file or module: expected one in it, {name}:NAME"
        )
    if found is None:
        raise SoftmapError(
            f"unknown variant {shown(name)}{nearest(name, names())}; known: {', '.join(names())}"
        )
    return found


def code_of(where: str, name: str, spec: Spec) -> bytes:
    """Returns the code of a member ``where:name`` that is a file, as it was when it ran."""
    module = sys.modules[find(f"{where}:{name}", spec).__module__]
    code: bytes = module.__source__  # type: ignore[attr-defined]
    return code


def _is_place(where: str) -> bool:
    """Whether text can name a Python file or a module."""
    if where.endswith(".py"):
        return where.isprintable()
    return all(part.isidentifier() for part in where.split("."))


@cache
def _shipped() -> dict[str, Callable[..., Parts]]:
    package = importlib.import_module("softmap.variants")
    found: dict[str, Callable[..., Parts]] = {}
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            found |= _in_module(importlib.import_module(f"softmap.variants.{info.name}"))
    return found


def _in_module(module: ModuleType) -> dict[str, Callable[..., Parts]]:
    marked = [f for f in vars(module).values() if hasattr(f, "__softmap__")]
    return {f.__softmap__.name: f for f in marked if f.__module__ == module.__name__}


@cache
def _outside(where: str, path: str, name: str) -> Callable[..., Parts]:
    found = _in_module(_import(where, path))
    if name not in found:
        have = ", ".join(found) or "none"
        raise SoftmapError(f"no variant {name!r} in {where}: found {have}{nearest(name, found)}")
    return found[name]


def _import(where: str, at: str) -> ModuleType:
    try:
        with untouched():
            return _execute(at) if where.endswith(".py") else importlib.import_module(where)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's own code raises
        place = f" (line {line})" if (line := _line_in(error, at)) else ""
        told = isinstance(error, SoftmapError)
        reason = str(error) if told else f"{type(error).__name__}: {error}"
        raise SoftmapError(f"cannot load variants from {where}{place}: {reason}") from error


def _execute(where: str) -> ModuleType:
    path = Path(where).resolve()
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(f"{where} is not a file")
    name = f"softmap_user_{path.stem}_{zlib.crc32(bytes(path)):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    module.__source__ = path.read_bytes()  # type: ignore[attr-defined]  # a saved model takes it
    sys.modules[name] = module  # dataclasses and pickle look it up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _line_in(error: BaseException, where: str) -> int | None:
    """Returns the line of the user's file that raised ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(where).resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename) == own]
    return lines[-1] if lines else None
