"""Parses the text of a variant, or a recipe's list, into names and options, and writes it again."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from softmap.errors import SoftmapError, shown
from softmap.variants._trust import Loaded

LONGEST = 1000  #: characters of a variant's text
DEEPEST = 20  #: lists in lists of a recipe's form

Spec = str | list | tuple | dict
Members = list[tuple[str, dict[str, Any]]]


def members_of(spec: Spec, depth: int = 0) -> Members:
    """Returns the (name, options) that ``spec`` lists, in order; nothing is looked up.

    Raises ``SoftmapError`` for what cannot be read.
    """
    if isinstance(spec, str):
        if len(spec) > LONGEST:
            raise SoftmapError(
                f"a variant has at most {LONGEST} characters, found {len(spec)}: {shown(spec)}"
            )
        return [parse(part) for part in _split(spec, "+")]
    if isinstance(spec, Mapping):
        for name, options in spec.items():
            if options is not None and not isinstance(options, Mapping):
                raise SoftmapError(
                    f"options of {shown(name)} must be a mapping, found {shown(options)}"
                )
        return [(str(n), {str(k): v for k, v in (o or {}).items()}) for n, o in spec.items()]
    if isinstance(spec, list | tuple) and depth < DEEPEST:
        return [member for item in spec for member in members_of(item, depth + 1)]
    found = "lists in lists without end" if depth else type(spec).__name__
    raise SoftmapError(f"a variant is a name, a list or a mapping, found {found}")


def _split(text: str, mark: str) -> Iterator[str]:
    """Split at ``mark`` outside brackets; the ``++`` of a name is not a separator.

    Raises ``SoftmapError`` for brackets that do not match.
    """
    depth, part = 0, ""
    for n, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            break
        doubled = mark == "+" and (text[n + 1 : n + 2] == "+" or text[n - 1 : n] == "+")
        if c == mark and depth == 0 and not (doubled and _ends_name(text, n)):
            yield part.strip()
            part = ""
        else:
            part += c
    if depth:
        raise SoftmapError(f"cannot read variant {shown(text)}: its brackets do not match")
    yield part.strip()


def _ends_name(text: str, n: int) -> bool:
    """Whether the plus at ``n`` is one of the two that end a name such as ``transformer++``."""
    start = n
    while start and text[start - 1] == "+":
        start -= 1
    return n - start < 2 and text[start : start + 2] == "++"


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Returns one member, ``name`` or ``name(option=value, ...)``, as (name, options)."""
    name, bracket, rest = text.partition("(")
    name = name.strip()
    if not name or (bracket and not rest.endswith(")")):
        raise SoftmapError(
            f"cannot read variant {shown(text)}: expected name or name(option=value, ...)"
        )
    options: dict[str, Any] = {}
    for item in _split(rest[:-1], ",") if rest[:-1].strip() else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not key or not value:
            raise SoftmapError(
                f"cannot read {shown(item)} in variant {shown(text)}: expected option=value"
            )
        if key in options:
            raise SoftmapError(f"variant {shown(text)}: option {shown(key)} is given twice")
        options[key] = _value(value)
    return name, options


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text


def spelled(members: Members, spec: Spec) -> str:
    """Returns the canonical text of the members; that of a loaded ``spec`` stays a loaded one."""
    text = "+".join(label_of(n, o) for n, o in members)
    return Loaded(text, spec.folder, spec.trusted) if isinstance(spec, Loaded) else text


def label_of(name: str, options: dict[str, Any]) -> str:
    """The inverse of [`parse`][]."""
    if not options:
        return name
    words = {True: "true", False: "false", None: "null"}
    texts = (
        f"{k}={words[v] if v is None or v is True or v is False else v}" for k, v in options.items()
    )
    return f"{name}({','.join(texts)})"
