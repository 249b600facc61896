"""Checks the words of a command line before they are parsed, for misspelt and repeated options.

A parser takes the last of two values and drops the other. Here an option that holds several values
gathers them (``--set a=1 --set b=2`` is ``--set a=1 b=2``), and any other is refused. For a command
that does not exist the nearest one is suggested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from softmap.errors import SoftmapError, nearest, nearest_or_all, shown

Commands = Mapping[str, Any]
"""Each command's dataclass, or the commands below it."""

_POSITIONAL = get_args(Positional[int])[1]
_HELP = ("-h", "--help")


def prepared(argv: Sequence[str], commands: Commands, program: str = "softmap") -> list[str]:
    """Returns ``argv`` ready for the parser; ``--help`` where no command is given.

    Raises ``SoftmapError`` for an unknown command or option, and for an option given twice.
    """
    if not argv:
        return ["--help"]
    name, *rest = argv
    if name in _HELP:
        return [name]
    if name not in commands:
        hint = nearest_or_all(name, commands)
        raise SoftmapError(f"{program} has no command {shown(name)}{hint}")
    kind, program = commands[name], f"{program} {name}"
    below = isinstance(kind, Mapping)
    return [name, *(prepared(rest, kind, program) if below else _gathered(rest, kind, program))]


def _gathered(words: list[str], kind: type, program: str) -> list[str]:
    """Returns ``words`` with all values of an option behind its first occurrence."""
    options = _options(kind)
    before: list[str] = []
    groups: dict[str, list[str]] = {}
    current = before
    for number, word in enumerate(words):
        if word == "--":
            return [*before, *chain(*groups.values()), *words[number:]]
        if not word.startswith("--") or word in _HELP:
            current.append(word)
            continue
        option, equals, value = word.partition("=")
        key = option[2:].replace("-", "_")
        if key not in options:
            known = [name.replace("_", "-") for name in options]
            hint = nearest(option[2:], known, "--") or f" ({program} --help lists them)"
            raise SoftmapError(f"{program} has no option {shown(option)}{hint}")
        several = get_origin(options[key]) is tuple
        if key in groups and not several and options[key] is not bool:
            raise SoftmapError(f"{option} is given twice, expected it once")
        if equals and options[key] is bool:
            raise SoftmapError(f"{option} takes no value, found {shown(value)}")
        if key not in groups:
            groups[key] = [option] if several else [word]
        current = groups[key]
        current += [value] if several and equals else []
    return [*before, *chain(*groups.values())]


def _options(kind: type) -> dict[str, Any]:
    """Returns the fields of a command that are options, with their types."""
    hints = get_type_hints(kind, include_extras=True)
    plain = get_type_hints(kind)
    return {
        name: plain[name]
        for name, hint in hints.items()
        if _POSITIONAL not in getattr(hint, "__metadata__", ())
    }
