"""Variants of a user's own, and the code that a saved model carries for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from softmap.files import write
from softmap.variants import Loaded, check_tokens, code_of, outside, renamed

__all__ = ["Loaded", "carry", "check_tokens", "files", "home", "loaded", "names_code"]


def names_code(spec: Any) -> bool:
    """Whether a member of ``spec`` is a file or a module outside of softmap; nothing is run."""
    return bool(outside(spec))


def files(spec: Any) -> list[str]:
    """Returns the ``.py`` files that ``spec`` names."""
    return [where for where, _ in outside(spec) if where.endswith(".py")]


def loaded(spec: Any, folder: Path, trusted: bool) -> Loaded:
    """Returns ``spec`` as a file in ``folder`` names it."""
    return Loaded(renamed(spec, {}), folder, trusted)


def home(spec: Any) -> Path:
    """Returns the folder that relative files of ``spec`` are found from.

    It is the folder of the file that named them where the first of them lies there, else the
    present working directory.
    """
    beside = isinstance(spec, Loaded) and (spec.folder / files(spec)[0]).is_file()
    return spec.folder if beside else Path.cwd()


def carry(spec: Any, folder: Path) -> str:
    """Write the files that ``spec`` names into ``folder``, and return the text that names them
    there.

    A file is written as it was when it ran. Modules keep their names: they are installed.
    """
    names: dict[str, str] = {}
    for where, name in outside(spec):
        if where.endswith(".py") and where not in names:
            code = _code(where, name, spec)
            names[where] = where if code is None else _place(folder, Path(where).name, code)
    return renamed(spec, names)


def _code(where: str, name: str, spec: Any) -> bytes | None:
    """Returns the code that runs as ``where:name``; if it is not trusted, the file of that name
    beside it.
    """
    if isinstance(spec, Loaded) and not spec.trusted:
        beside = spec.folder / Path(where).name  # of that folder, and no other
        return beside.read_bytes() if where == beside.name and beside.is_file() else None
    return code_of(where, name, spec)


def _place(folder: Path, name: str, code: bytes) -> str:
    """Write the code into ``folder`` and return its name there, unless a file already holds it."""
    stem = re.sub(r"[^\w.-]", "_", name.removesuffix(".py"))
    number = 1
    while True:
        path = folder / (f"{stem}.py" if number == 1 else f"{stem}_{number}.py")
        if not path.exists():
            write(path, code)
        if path.is_file() and path.read_bytes() == code:
            return path.name
        number += 1
