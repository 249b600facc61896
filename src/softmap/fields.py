"""Values of a declared type and range: one check for recipes, options, sizes and variants.

    @dataclass
    class Training(Checked):
        steps: Annotated[int, Range(1, 10**9)] = 1000
        clip: Annotated[float, Range(above=0)] | None = 1.0

The types are ``bool int float str``, ``Literal``, unions, ``list``, ``tuple`` and ``dict`` of them,
``TypedDict`` (further keys are let through, an absent one is ``None``) and classes. ``True`` is no
number, a whole number has at most 64 bits and is a float, and every float is finite.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from softmap.errors import SoftmapError, nearest, shown

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low <= x <= high``, ``above < x < below``."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.low is not None and self.high is None and self.below is None:
            return f"of {_number(self.low)} or more"
        bounds = {"from": self.low, "above": self.above, "to": self.high, "below": self.below}
        return " ".join(f"{word} {_number(x)}" for word, x in bounds.items() if x is not None)


class Checked:
    """A dataclass whose fields are checked at construction."""

    def __post_init__(self) -> None:
        for name, kind in hints(type(self)).items():  # type: ignore[arg-type]
            check(name, getattr(self, name), kind)


def check_flags(command: Any) -> None:
    """Raise ``SoftmapError`` naming the flag for a field of a command that is not as declared."""
    for name, kind in hints(type(command)).items():  # type: ignore[arg-type]
        check(f"--{name.replace('_', '-')}", getattr(command, name), kind)


@functools.cache
def hints(kind: Any) -> dict[str, Any]:
    """Returns the declared types of a class's or a function's names, ranges included."""
    return get_type_hints(kind, include_extras=True)


def check(name: str, value: Any, kind: Any) -> None:
    """Raise ``SoftmapError`` naming ``name`` unless ``value`` is of the declared ``kind``."""
    if fits(value, kind):
        return
    inside = _items(name, value, kind)
    for item in inside:
        check(*item)
    choices = [choice for choice in _choices(kind) if isinstance(choice, str)]
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise SoftmapError(f"{name}: expected {describe(kind)}, found {shown(value)}{hint}")


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of the declared ``kind``; a type that is not known here fits all."""
    origin, inside = _origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [note for note in inside[1:] if isinstance(note, Range)]
        return fits(value, inside[0]) and all(_within(value, bound) for bound in bounds)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin in (list, tuple, dict):
        items = _items("", value, kind)
        shape = origin is not tuple or ... in inside or len(inside) == _length(value)
        return _is_shape(value, origin) and shape and all(fits(x, one) for _, x, one in items)
    return _is_one(value, kind)


def _is_one(value: Any, kind: Any) -> bool:
    if kind is float:
        return (isinstance(value, float) and math.isfinite(value)) or _is_one(value, int)
    if kind is int:  # beyond 64 bits NumPy and torch have none
        return type(value) is not bool and isinstance(value, int) and -(2**63) <= value < 2**63
    if kind is None or kind is Any:
        return kind is Any or value is None
    return not isinstance(kind, type) or isinstance(value, kind)


def _within(value: Any, bound: Range) -> bool:
    return value is None or bound.holds(value)


def _origin(kind: Any) -> Any:
    return dict if is_typeddict(kind) else get_origin(kind)


def _is_shape(value: Any, origin: Any) -> bool:
    return isinstance(value, {list: list, tuple: tuple, dict: Mapping}.get(origin, ()))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | tuple) else -1


def _items(name: str, value: Any, kind: Any) -> list[tuple[str, Any, Any]]:
    """Yields (name, item, kind) of what a list, tuple or mapping holds, if ``kind`` declares it."""
    origin, inside = _origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        arms = [one for one in inside if _is_shape(value, _origin(one))]
        return _items(name, value, arms[0]) if arms else []
    if origin in (list, tuple) and _is_shape(value, origin):
        kinds = inside if origin is tuple and ... not in inside else inside[:1] * len(value)
        pairs = zip(value, kinds, strict=False)
        return [(f"{name}[{n}]", item, one) for n, (item, one) in enumerate(pairs)]
    if is_typeddict(kind) and _is_shape(value, dict):
        return [(f"{name}: {key}", value.get(key), one) for key, one in hints(kind).items()]
    if origin is dict and _is_shape(value, dict):
        return [(f"{name}.{key}", item, inside[1]) for key, item in value.items()]
    return []


def _choices(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(choice for one in get_args(kind) for choice in _choices(one))
    return get_args(kind) if get_origin(kind) is Literal else ()


def describe(kind: Any) -> str:
    """Returns in words what ``kind`` accepts."""
    origin, inside = _origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [str(note) for note in inside[1:] if isinstance(note, Range)]
        return " ".join([describe(inside[0]), *bounds])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(one) for one in inside)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple and ... not in inside:
        return f"{len(inside)} values"
    if origin in (list, tuple):
        return "a list"
    if origin is dict or (isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")):
        return "a mapping"
    if kind is None or kind is type(None):
        return "nothing"
    return _NAMES.get(kind) or str(getattr(kind, "__name__", kind))


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
