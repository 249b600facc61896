"""YAML as a tree of nodes that know their lines, which ``yaml.safe_load`` loses."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import yaml

from softmap.errors import SoftmapError, nearest, shown

LARGEST = 100_000  #: characters of a recipe
MOST_NODES = 20_000  #: values of a recipe
DEEPEST = 20
_TAGS = {"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value"}
_TOO_DEEP = f"expected lists and mappings at most {DEEPEST} deep, found more"
# YAML 1.1 also reads 010 as 8, 1:30 as 90 and 0x10 as 16, and takes 3e-3 for text.
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?")


def parse(text: str, name: str) -> yaml.Node | None:
    """Returns the node tree of one YAML document; ``name`` precedes the line in errors.

    Raises ``SoftmapError`` for what is not YAML, and for a text, a nesting or a tree (aliases
    followed) larger than any recipe's.
    """
    if len(text) > LARGEST:
        raise SoftmapError(f"{name}: expected at most {LARGEST:,} characters, found {len(text):,}")
    stream = io.StringIO(text)
    stream.name = name  # type: ignore[attr-defined]  # PyYAML's marks take the stream's name
    try:
        root = yaml.compose(stream, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SoftmapError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SoftmapError(f"{name}: not valid YAML: {error}") from None
    except RecursionError:
        raise SoftmapError(f"{name}: {_TOO_DEEP}") from None
    if root is not None:
        _measure(root, name)
    return root


def _measure(root: yaml.Node, name: str) -> None:
    """Refuse a tree that would be too large once its aliases are expanded."""
    left = [(root, 1)]
    for _ in range(MOST_NODES):
        if not left:
            return
        node, depth = left.pop()
        if depth > DEEPEST:
            raise SoftmapError(f"{name}: {_TOO_DEEP}")
        if node.tag.rsplit(":", 1)[-1] not in _TAGS:
            raise fail(node, f"expected plain values, found the tag {shown(node.tag)}")
        if isinstance(node, yaml.CollectionNode):
            inside = node.value if isinstance(node, yaml.SequenceNode) else sum(node.value, ())
            left += [(item, depth + 1) for item in inside]
    raise SoftmapError(f"{name}: expected at most {MOST_NODES:,} values, aliases written out")


def read(path: Path) -> yaml.Node | None:
    """Returns the node tree of a file."""
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise SoftmapError(f"{path}: expected a recipe file, found something else")
    try:
        with path.open("rb") as file:
            data = file.read(4 * LARGEST + 1)
    except OSError as error:
        raise SoftmapError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return parse(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError:
        raise SoftmapError(f"{path}: not a text file (expected YAML in UTF-8)") from None


def override(root: yaml.Node, key: str, text: str) -> None:
    """Replace the value at the dotted ``key`` of the tree by the YAML value ``text``."""
    value = parse(text or "''", f"--set {key}={text}")
    if value is None:
        raise SoftmapError(f"--set {key}={text}: expected a value, found a comment")
    *sections, last = key.split(".")
    if not all((*sections, last)):
        raise SoftmapError(f"--set {key}={text}: expected key.path=value, found {shown(key)}")
    if not isinstance(root, yaml.MappingNode):
        raise unexpected(root, "a mapping", "")
    node: yaml.Node = root
    for section in sections:
        node = _child(node, section, value)
    kept = [pair for pair in node.value if pair[0].value != last]
    node.value = [*kept, (_name(last, value), value)]


def _child(node: yaml.Node, section: str, source: yaml.Node) -> yaml.Node:
    found = pairs(node, "")
    if section in found:
        child = found[section][1]
        if not isinstance(child, yaml.MappingNode):
            raise fail(source, f"{section!r} is not a mapping")
        return child
    child = yaml.MappingNode("tag:yaml.org,2002:map", [], source.start_mark)
    node.value.append((_name(section, source), child))
    return child


def _name(name: str, source: yaml.Node) -> yaml.Node:
    return yaml.ScalarNode("tag:yaml.org,2002:str", name, source.start_mark)


def fail(node: yaml.Node, message: str) -> SoftmapError:
    """Returns the error for a fault in ``node``: ``file:line: message``."""
    return SoftmapError(f"{where(node)}: {message}")


def where(node: yaml.Node) -> str:
    """Returns ``file:line`` of a node, or the flag that it came from."""
    mark = node.start_mark
    return mark.name if mark.name.startswith("--") else f"{mark.name}:{mark.line + 1}"


def pairs(node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Returns a mapping's (key node, value node) by key; a key given twice is refused."""
    if not isinstance(node, yaml.MappingNode):
        raise unexpected(node, "a mapping", key)
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise fail(
                name, f"{key or 'the recipe'}: expected a plain key, found a list or mapping"
            )
        if name.value in found:
            first = found[name.value][0].start_mark.line + 1
            raise fail(name, f"key {join(key, name.value)!r} again (first on line {first})")
        found[name.value] = (name, value)
    return found


def unknown_key(node: yaml.Node, key: str, known: list[str]) -> SoftmapError:
    """Returns the error for a key that is not in ``known``, with the nearest ones."""
    name = node.value
    hint = nearest(name, known) or f" (known: {', '.join(known)})"
    return fail(node, f"unknown key {join(key, name)!r}{hint}")


def unexpected(node: yaml.Node, expected: str, key: str) -> SoftmapError:
    """Returns the error for a node that is not what ``key`` takes."""
    found = shown(node.value) if node.value else "nothing"
    if isinstance(node, yaml.CollectionNode):
        found = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    return fail(node, f"{key or 'the recipe'}: expected {expected}, found {found}")


def plain(node: yaml.Node) -> Any:
    """Returns the node as plain Python data, numbers such as ``3e-3`` included."""
    if isinstance(node, yaml.MappingNode):
        return {name: plain(value) for name, (_, value) in pairs(node, "").items()}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    return construct(node)


def tag_of(node: yaml.Node) -> str:
    """Returns the type of a scalar: ``int``, ``float``, ``bool``, ``str``, ``null``, ...

    Numbers are decimal: ``3e-3``, which YAML 1.1 takes for text, is one; what it reads in another
    base, NaN and infinity are a ``number``, which no key accepts.
    """
    tag, text = node.tag.rsplit(":", 1)[-1], node.value
    if tag == "str" and getattr(node, "style", None) is None and _NUMBER.fullmatch(text):
        return "float"
    if tag not in ("int", "float"):
        return tag
    if _WHOLE.fullmatch(text):
        return "int"
    return "float" if tag == "float" and _NUMBER.fullmatch(text) else "number"


def construct(node: yaml.Node) -> Any:
    """Returns the Python value of a scalar; raises ``SoftmapError`` for a number that is not
    finite.
    """
    kind = tag_of(node)
    try:
        if kind == "int":
            return int(node.value)
        if kind == "float" and math.isfinite(value := float(node.value)):
            return value
        if kind in ("float", "number"):
            raise ValueError(f"expected a finite decimal number, found {shown(node.value)}")
        return yaml.SafeLoader("").construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise fail(node, f"not a value: {error or shown(node.value)}") from None


def join(key: str, name: str) -> str:
    """Returns the dotted name of ``name`` inside ``key``."""
    return f"{key}.{name}" if key else name
