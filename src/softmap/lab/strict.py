"""YAML nodes to typed dataclasses, strictly: every error names the file, line and key.

The types are those that a recipe needs: ``bool int float str``, ``X | None``, unions, ``list[X]``,
``dict[str, X]``, ``Literal`` and nested dataclasses. A dataclass may define ``from_node(node,
key)`` to read a form of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from softmap.errors import SoftmapError
from softmap.fields import describe
from softmap.lab.nodes import construct, fail, join, pairs, plain, tag_of, unexpected, unknown_key

_TAGS = {bool: "bool", int: "int", float: "float", type(None): "null"}


def convert(node: yaml.Node, kind: Any, key: str) -> Any:
    """Returns ``node`` as a value of type ``kind``; ``key`` is its dotted name, for messages."""
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


def _dataclass(node: yaml.Node, kind: Any, key: str) -> Any:
    if hasattr(kind, "from_node"):
        return kind.from_node(node, key)
    known = fields(kind)
    found = pairs(node, key)
    values = {}
    for name, (name_node, value) in found.items():
        if name not in known:
            raise unknown_key(name_node, key, list(known))
        values[name] = convert(value, known[name], join(key, name))
    missing = [f.name for f in dataclasses.fields(kind) if _required(f, values)]
    if missing:
        raise fail(node, f"missing key {', '.join(repr(join(key, name)) for name in missing)}")
    try:
        return kind(**values)
    except SoftmapError as error:
        names = re.split(r"[.:\[]", str(error))
        at = found[names[0]][0] if names[0] in found else node
        raise fail(at, join(key, str(error))) from None


@functools.cache
def fields(kind: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass with their types."""
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
    raise unexpected(node, " or ".join(describe(kind) for kind in kinds), key)


def _shape_fits(node: yaml.Node, kind: Any) -> bool:
    origin = get_origin(kind) or kind
    if origin is list:
        return isinstance(node, yaml.SequenceNode)
    if origin is dict or dataclasses.is_dataclass(origin):
        return isinstance(node, yaml.MappingNode)
    if origin is Literal:
        return isinstance(node, yaml.ScalarNode) and node.value in get_args(kind)
    return isinstance(node, yaml.ScalarNode) and _scalar_fits(node, origin)


def _literal(node: yaml.Node, choices: tuple[Any, ...], key: str) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.value in choices:
        return node.value
    raise unexpected(node, "one of " + ", ".join(choices), key)


def _list(node: yaml.Node, kind: Any, key: str) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise unexpected(node, "a list", key)
    return [convert(item, kind, f"{key}[{i}]") for i, item in enumerate(node.value)]


def _dict(node: yaml.Node, kind: Any, key: str) -> dict[str, Any]:
    items = pairs(node, key).items()
    if kind is Any:
        return {name: plain(value) for name, (_, value) in items}
    return {name: convert(value, kind, join(key, name)) for name, (_, value) in items}


def _scalar(node: yaml.Node, kind: Any, key: str) -> Any:
    if not isinstance(node, yaml.ScalarNode) or not _scalar_fits(node, kind):
        raise unexpected(node, describe(kind), key)
    if kind is str:
        return node.value
    value = construct(node)
    return float(value) if kind is float else value


def _scalar_fits(node: yaml.Node, kind: Any) -> bool:
    tag = tag_of(node)
    if kind is str:
        return node.tag.endswith(":str")
    return tag == _TAGS.get(kind) or (kind is float and tag == "int")
