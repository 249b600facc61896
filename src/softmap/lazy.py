"""Names of a package that are imported when they are first asked for, and listed by ``dir``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from softmap.extras import installed


def lazily(
    package: str, where: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names live in other modules.

    Args:
        where: for each name the module that it is taken from; a module's own name stands for
            itself.
        optional: the package of an extra that a name needs; without it the name is not listed,
            since ``help`` asks for all that are.
    """

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(where[name])
        return module if where[name] == f"{package}.{name}" else getattr(module, name)

    def names() -> list[str]:
        missing = {n for n, needed in (optional or {}).items() if not installed(needed)}
        return sorted({*vars(sys.modules[package]), *where.keys() - missing})

    return get, names
