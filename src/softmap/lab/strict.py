"""YAML nodes to typed dataclasses, strictly: every complaint names the file, line and key.

The node tree of PyYAML keeps the line of each value, which plain ``yaml.safe_load`` loses. The
types are those a recipe needs: ``bool int float str``, ``X | None``, unions, ``list[X]``,
``dict[str, X]``, ``Literal`` and nested dataclasses. A dataclass may define ``from_node(node,
key)`` to read a form of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from softmap.errors import SoftmapError, nearest

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_TAGS = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}


def parse(text: str, name: str) -> yaml.Node | None:
    """The node tree of one YAML document; ``name`` stands before each complaint's line."""
    stream = io.StringIO(text)
    stream.name = name  # type: ignore[attr-defined]  # PyYAML's marks take the stream's name
    try:
        return yaml.compose(stream, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SoftmapError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise SoftmapError(f"{name}: not valid YAML: {problem}") from None


def read(path: Path) -> yaml.Node | None:
    """The node tree of a file."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise SoftmapError(f"{path}: not a text file (expected YAML in UTF-8)") from None


def convert(node: yaml.Node, kind: Any, key: str) -> Any:
    """``node`` as a value of type ``kind``; ``key`` is its dotted name, for complaints."""
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(node, kind, key)
    if origin in (Union, types.UnionType):
        return _union(node, get_args(kind), key)
    if origin is Literal:
        return _literal(node, get_args(kind), key)
    if origin is list:
        return _list(node, get_args(kind)[0], key)
    if origin is dict:
        return _dict(node, get_args(kind)[1], key)
    return _scalar(node, kind, key)


def override(root: yaml.Node, key: str, text: str) -> None:
    """Put the YAML value ``text`` at the dotted ``key``, in place of what the tree holds there."""
    value = parse(text or "''", f"--set {key}={text}")
    if value is None:
        raise SoftmapError(f"--set {key}={text}: expected a value, found a comment")
    *sections, last = key.split(".")
    node = root
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
    """The error for a complaint about ``node``: ``file:line: message``."""
    return SoftmapError(f"{where(node)}: {message}")


def where(node: yaml.Node) -> str:
    """``file:line`` of a node, or the flag that it came from."""
    mark = node.start_mark
    return mark.name if mark.name.startswith("--") else f"{mark.name}:{mark.line + 1}"


def pairs(node: yaml.Node, key: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """A mapping's (key node, value node) by key; a key given twice is refused."""
    if not isinstance(node, yaml.MappingNode):
        raise _unexpected(node, "a mapping", key)
    found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for name, value in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise fail(
                name, f"{key or 'the recipe'}: expected a plain key, found a list or mapping"
            )
        if name.value in found:
            first = found[name.value][0].start_mark.line + 1
            raise fail(name, f"key {_join(key, name.value)!r} again (first on line {first})")
        found[name.value] = (name, value)
    return found


def unknown_key(node: yaml.Node, key: str, known: list[str]) -> SoftmapError:
    """The error for a key that is not in ``known``; the nearest ones are offered."""
    name = node.value
    hint = nearest(name, known) or f" (known: {', '.join(known)})"
    return fail(node, f"unknown key {_join(key, name)!r}{hint}")


def plain(node: yaml.Node) -> Any:
    """The node as plain Python data, numbers such as ``3e-3`` included."""
    if isinstance(node, yaml.MappingNode):
        return {name: plain(value) for name, (_, value) in pairs(node, "").items()}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if _is_number(node):
        return float(node.value)
    return _construct(node)


def _dataclass(node: yaml.Node, kind: Any, key: str) -> Any:
    if hasattr(kind, "from_node"):
        return kind.from_node(node, key)
    known = fields(kind)
    found = pairs(node, key)
    values = {}
    for name, (name_node, value) in found.items():
        if name not in known:
            raise unknown_key(name_node, key, list(known))
        values[name] = convert(value, known[name], _join(key, name))
    try:
        return kind(**values)
    except TypeError:
        missing = [f.name for f in dataclasses.fields(kind) if _required(f, values)]
        keys = ", ".join(repr(_join(key, name)) for name in missing)
        raise fail(node, f"missing key {keys}") from None
    except SoftmapError as error:
        name = str(error).split(":")[0].rsplit(".")[-1]
        raise fail(found[name][0] if name in found else node, str(error)) from None


@functools.cache
def fields(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass with their types."""
    hints = get_type_hints(kind)
    mine = [f.name for f in dataclasses.fields(kind) if f.metadata.get("yaml", True)]
    return {name: hints[name] for name in mine}


def _required(field: dataclasses.Field[Any], values: dict[str, Any]) -> bool:
    missing = dataclasses.MISSING
    return field.name not in values and field.default is missing is field.default_factory


def _union(node: yaml.Node, kinds: tuple[Any, ...], key: str) -> Any:
    for kind in kinds:
        if _shape_fits(node, kind):
            return convert(node, kind, key)
    raise _unexpected(node, " or ".join(_describe(kind) for kind in kinds), key)


def _shape_fits(node: yaml.Node, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin is list:
        return isinstance(node, yaml.SequenceNode)
    if origin is dict or dataclasses.is_dataclass(origin):
        return isinstance(node, yaml.MappingNode)
    return isinstance(node, yaml.ScalarNode) and _scalar_fits(node, origin)


def _literal(node: yaml.Node, choices: tuple[Any, ...], key: str) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.value in choices:
        return node.value
    raise _unexpected(node, "one of " + ", ".join(choices), key)


def _list(node: yaml.Node, kind: Any, key: str) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise _unexpected(node, "a list", key)
    return [convert(item, kind, f"{key}[{i}]") for i, item in enumerate(node.value)]


def _dict(node: yaml.Node, kind: Any, key: str) -> dict[str, Any]:
    items = pairs(node, key).items()
    if kind is Any:
        return {name: plain(value) for name, (_, value) in items}
    return {name: convert(value, kind, _join(key, name)) for name, (_, value) in items}


def _scalar(node: yaml.Node, kind: Any, key: str) -> Any:
    if not isinstance(node, yaml.ScalarNode) or not _scalar_fits(node, kind):
        raise _unexpected(node, _describe(kind), key)
    return float(node.value) if kind is float else _construct(node)


def _scalar_fits(node: yaml.Node, kind: Any) -> bool:
    tag = node.tag.rsplit(":", 1)[-1]
    return tag == _TAGS.get(kind) or (kind is float and (tag == "int" or _is_number(node)))


def _is_number(node: yaml.Node) -> bool:
    # YAML 1.1 reads 3e-3, without a point, as text; everyone else reads a number.
    if not node.tag.endswith(":str") or getattr(node, "style", None) is not None:
        return False
    try:
        return node.value[:1] in "+-.0123456789" and float(node.value) == float(node.value)
    except ValueError:
        return False


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError) as error:
        raise fail(node, f"not a value: {str(error).splitlines()[0]}") from None


def _unexpected(node: yaml.Node, expected: str, key: str) -> SoftmapError:
    found = repr(node.value) if node.value else "nothing"
    if isinstance(node, yaml.CollectionNode):
        found = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    return fail(node, f"{key or 'the recipe'}: expected {expected}, found {found}")


def _describe(kind: Any) -> str:
    if kind is type(None):
        return "nothing"
    if dataclasses.is_dataclass(kind) or get_origin(kind) is dict:
        return "a mapping"
    return "a list" if get_origin(kind) is list else _NAMES.get(kind, str(kind))


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
