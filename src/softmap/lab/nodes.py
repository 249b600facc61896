"""YAML as a tree of nodes that know their lines, which ``yaml.safe_load`` loses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import yaml

from softmap.errors import SoftmapError, nearest


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
    """The error for a key that is not in ``known``; the nearest ones are offered."""
    name = node.value
    hint = nearest(name, known) or f" (known: {', '.join(known)})"
    return fail(node, f"unknown key {join(key, name)!r}{hint}")


def unexpected(node: yaml.Node, expected: str, key: str) -> SoftmapError:
    """The error for a node that is not what ``key`` takes."""
    found = repr(node.value) if node.value else "nothing"
    if isinstance(node, yaml.CollectionNode):
        found = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
    return fail(node, f"{key or 'the recipe'}: expected {expected}, found {found}")


def plain(node: yaml.Node) -> Any:
    """The node as plain Python data, numbers such as ``3e-3`` included."""
    if isinstance(node, yaml.MappingNode):
        return {name: plain(value) for name, (_, value) in pairs(node, "").items()}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    if is_number(node):
        return float(node.value)
    return construct(node)


def is_number(node: yaml.Node) -> bool:
    """Whether a plain scalar is a number that YAML 1.1 takes for text (``3e-3``)."""
    # YAML 1.1 reads 3e-3, without a point, as text; everyone else reads a number.
    if not node.tag.endswith(":str") or getattr(node, "style", None) is not None:
        return False
    try:
        return node.value[:1] in "+-.0123456789" and float(node.value) == float(node.value)
    except ValueError:
        return False


def construct(node: yaml.Node) -> Any:
    """The Python value of a scalar."""
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError) as error:
        raise fail(node, f"not a value: {str(error).splitlines()[0]}") from None


def join(key: str, name: str) -> str:
    """The dotted name of ``name`` inside ``key``."""
    return f"{key}.{name}" if key else name
