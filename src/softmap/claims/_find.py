"""Claims by id: the name of the file, with dashes for underscores."""

from __future__ import annotations

import dataclasses
import pkgutil
from functools import cache
from importlib import import_module

from softmap.claims._claim import Claim
from softmap.errors import SoftmapError, nearest_or_all, shown


@cache
def names() -> list[str]:
    """Returns all ids in alphabetical order."""
    package = import_module("softmap.claims")
    found = [info.name for info in pkgutil.iter_modules(package.__path__)]
    return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))


def claim(name: str) -> Claim:
    """Returns the claim of that id; raises ``SoftmapError`` for an unknown one, with the
    nearest.
    """
    if name not in names():
        raise SoftmapError(f"no claim {shown(name)}{nearest_or_all(name, names())}")
    module = import_module(f"softmap.claims.{name.replace('-', '_')}")
    found: Claim = module.CLAIM
    return dataclasses.replace(found, id=name)
