"""The shape of JSON that was loaded: types, finite numbers, expected keys.

    check({"seeds": [int], "loss": (float, None), "paper?": str}, found, "run.json")

A type (``int`` is a float too, ``True`` is neither, numbers are finite), a list of one shape, a
tuple of alternatives, or keys with their shapes; ``?`` marks those that may be absent or null.
Further keys are let through.
"""

from __future__ import annotations

import math
from typing import Any

from softmap.errors import SoftmapError

Shape = Any
_NAMES = {int: "a whole number", float: "a number", str: "text", dict: "an object", None: "null"}


def check(shape: Shape, value: Any, where: str) -> None:
    """Raises ``SoftmapError`` that says where ``value`` is not of that shape."""
    if isinstance(shape, dict):
        _object(shape, value, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _unlike(where, "a list", value)
        for i, item in enumerate(value):
            check(shape[0], item, f"{where}[{i}]")
    elif not any(_fits(kind, value) for kind in (shape if isinstance(shape, tuple) else (shape,))):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        raise _unlike(where, " or ".join(_NAMES[kind] for kind in kinds), value)


def _object(shape: dict[str, Shape], value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise _unlike(where, "an object", value)
    absent = [key for key in shape if not key.endswith("?") and value.get(key) is None]
    if absent:
        keys = ", ".join(key.removesuffix("?") for key in shape)
        raise SoftmapError(
            f"{where}: expected the keys {keys}, found no value for {', '.join(absent)}"
        )
    for key, kind in shape.items():
        found = value.get(key.removesuffix("?"))
        if found is not None:
            check(kind, found, f"{where}: {key.removesuffix('?')}")


def _fits(kind: Any, value: Any) -> bool:
    if kind is None:
        return value is None
    if kind in (int, float):
        number = (int, float) if kind is float else int
        # Beyond 2^63 a count is damage, and NumPy has no whole number for it.
        return isinstance(value, number) and not isinstance(value, bool) and _finite(value)
    return isinstance(value, kind)


def _finite(value: float) -> bool:
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)


def _unlike(where: str, expected: str, value: Any) -> SoftmapError:
    return SoftmapError(f"{where}: expected {expected}, found {value!r:.60}")
