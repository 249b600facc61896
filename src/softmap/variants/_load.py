"""From a name, a composed string or a recipe's list to one :class:`Composition`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import check, hints
from softmap.maps import STAGES
from softmap.variants._guard import untouched
from softmap.variants._parts import About, Parts
from softmap.variants._trust import Loaded, located

LONGEST = 1000  #: characters of a variant's text
DEEPEST = 20  #: lists in lists of a recipe's form

Spec = str | list | tuple | dict


@dataclass(frozen=True)
class Composition:
    """One or more variants in order, as one.

    label: its canonical name, which :func:`load` takes again. parts: all edits, all backbone
    fields. members: what it was made of, as (name, options).
    """

    label: str
    title: str
    paper: str | None
    source: str | None
    peak_lr_hint: float | None
    doc: str
    parts: Parts
    members: tuple[tuple[str, dict[str, Any]], ...]


def load(spec: Spec) -> Composition:
    """The variant, or the composition of several, that ``spec`` names.

    spec: a text of members joined by ``+``, each a name with options in brackets
    (``"diff+dcmha(rank=4)"``); a list of such texts; or, as recipes write it, mappings from names
    to options (``["diff", {"dcmha": {"rank": 4}}]``). A member ``file.py:name`` or
    ``package.module:name`` is one of the user's own; :func:`names` lists the others. Order
    matters: edits of a stage are applied in the order of the members.

    Returns edits still to be built for the sizes of a layer (:func:`softmap.variants.build`), and
    the backbone's fields. Raises ``ValueError`` for an unknown name or option (the nearest are
    offered), for members that cannot be combined, and for a text that a file brought
    (:class:`Loaded`) and nobody trusted.
    """
    if isinstance(spec, Loaded):
        spec.check()
    members = _members(spec)
    if not members:
        raise SoftmapError("a variant needs at least one name, found an empty list")
    made = [(find(name, spec), name, options) for name, options in members]
    parts = [_call(f, name, options) for f, name, options in made]
    abouts: list[About] = [f.__softmap__ for f, _, _ in made]  # type: ignore[attr-defined]
    own = [a for a in abouts if a.paper] or abouts
    hints = [a.peak_lr_hint for a in abouts if a.peak_lr_hint]
    return Composition(
        label=_spelled(members, spec),
        title=" + ".join(a.title for a in abouts),
        paper=", ".join(dict.fromkeys(a.paper for a in own if a.paper)) or None,
        source=own[0].source,
        peak_lr_hint=min(hints, default=None),
        doc="\n\n".join(inspect.getdoc(f) or "" for f, _, _ in made),
        parts=_merge(parts, [n for n, _ in members]),
        members=tuple(members),
    )


def names() -> list[str]:
    """Every variant that ships with softmap."""
    return list(_shipped())


def outside(spec: Spec) -> list[tuple[str, str]]:
    """The (where, name) of the members that run code of the user's own; nothing is run here."""
    names = [name for name, _ in _members(spec)]
    return [(where, own) for where, mark, own in (n.rpartition(":") for n in names) if mark]


def renamed(spec: Spec, names: Mapping[str, str]) -> str:
    """The canonical text of ``spec``, its files named otherwise; nothing is run."""
    members = [(n.rpartition(":"), o) for n, o in _members(spec)]
    made = [(names.get(where, where) + mark + own, o) for (where, mark, own), o in members]
    return "+".join(_label(n, o) for n, o in made)


def code_of(where: str, name: str, spec: Spec) -> bytes:
    """The code that runs, as it was read, of a member ``where:name`` that is a file."""
    module = sys.modules[find(f"{where}:{name}", spec).__module__]
    code: bytes = module.__source__  # type: ignore[attr-defined]
    return code


def find(name: str, spec: Spec = "") -> Callable[..., Parts]:
    """The variant function of that name, shipped or ``where:name``, as ``spec`` may locate it."""
    if ":" in name:
        where, _, own = name.rpartition(":")
        if not _is_place(where) or not own:
            raise SoftmapError(
                f"cannot read variant {shown(name)}: expected FILE.py:NAME or MODULE:NAME"
            )
        return _outside(where, located(where, spec), own)
    found = _shipped().get(name)
    if found is None:
        raise SoftmapError(
            f"unknown variant {shown(name)}{nearest(name, names())}; known: {', '.join(names())}"
        )
    return found


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
    """The line of the user's file that raised ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    own = Path(where).resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename) == own]
    return lines[-1] if lines else None


def _call(function: Callable[..., Parts], name: str, options: dict[str, Any]) -> Parts:
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in options:
            if key not in parameters:
                known = ", ".join(parameters) or "none"
                raise SoftmapError(
                    f"variant {name!r} has no option {shown(key)}{nearest(key, parameters)}; "
                    f"options: {known}"
                )
    declared = _declared(function)
    for key, value in options.items():
        check(f"variant {name!r}: {key}", value, declared.get(key, Any))
    try:
        parts = function(**options)
    except SoftmapError:
        raise
    except Exception as error:  # a user's own function
        raise SoftmapError(f"variant {name!r}: {type(error).__name__}: {error}") from error
    _check_parts(name, parts)
    return parts


def _declared(function: Callable[..., Parts]) -> dict[str, Any]:
    try:
        return hints(function)
    except Exception:  # a user's file may import types for its checker alone
        return {}


def _check_parts(name: str, parts: Any) -> None:
    """Raise ``SoftmapError`` unless a variant's function returned what it has to."""
    if not isinstance(parts, Parts):
        raise SoftmapError(f"variant {name!r}: expected to return Parts, found {shown(parts)}")
    if not isinstance(parts.backbone, Mapping):
        found = shown(parts.backbone)
        raise SoftmapError(f"variant {name!r}: Parts.backbone: expected a mapping, found {found}")
    for stage in STAGES:
        builders = getattr(parts, stage)
        if not isinstance(builders, Sequence) or not all(map(callable, builders)):
            raise SoftmapError(
                f"variant {name!r}: Parts.{stage}: expected a list of functions of a Place that "
                f"return an Edit, found {shown(builders)}"
            )


def _merge(parts: list[Parts], names: list[str]) -> Parts:
    backbone: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for part, name in zip(parts, names, strict=True):
        for key, value in part.backbone.items():
            if key in backbone and backbone[key] != value:
                raise SoftmapError(
                    f"{owner[key]!r} and {name!r} cannot be combined: they set {key} to "
                    f"{backbone[key]!r} and {value!r}"
                )
            backbone[key], owner[key] = value, name
    edits = {s: [e for p in parts for e in getattr(p, s)] for s in STAGES}
    return Parts(**edits, backbone=backbone)


def _members(spec: Spec, depth: int = 0) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(spec, str):
        if len(spec) > LONGEST:
            raise SoftmapError(
                f"a variant has at most {LONGEST} characters, found {len(spec)}: {shown(spec)}"
            )
        return [_parse(part) for part in _split(spec, "+")]
    if isinstance(spec, Mapping):
        for name, options in spec.items():
            if options is not None and not isinstance(options, Mapping):
                raise SoftmapError(
                    f"options of {shown(name)} must be a mapping, found {shown(options)}"
                )
        return [(str(n), {str(k): v for k, v in (o or {}).items()}) for n, o in spec.items()]
    if isinstance(spec, list | tuple) and depth < DEEPEST:
        return [member for item in spec for member in _members(item, depth + 1)]
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


def _parse(text: str) -> tuple[str, dict[str, Any]]:
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


def _spelled(members: list[tuple[str, dict[str, Any]]], spec: Spec) -> str:
    text = "+".join(_label(n, o) for n, o in members)
    return Loaded(text, spec.folder, spec.trusted) if isinstance(spec, Loaded) else text


def _label(name: str, options: dict[str, Any]) -> str:
    if not options:
        return name
    words = {True: "true", False: "false", None: "null"}
    texts = (
        f"{k}={words[v] if v is None or v is True or v is False else v}" for k, v in options.items()
    )
    return f"{name}({','.join(texts)})"
