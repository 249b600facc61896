"""A foreign configuration, read option by option with its kind and default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from softmap.errors import SoftmapError, nearest


class Only(NamedTuple):
    """The values of an option that can be represented (the first is its default), and why."""

    values: tuple[Any, ...]
    why: str


class Options:
    """The options of ``what``. Every reader raises ``ValueError`` naming the option it rejects."""

    def __init__(self, what: str, config: Mapping[str, Any]) -> None:
        if not isinstance(config, Mapping):
            raise SoftmapError(
                f"{what}: config must be a mapping of options, found {type(config).__name__}"
            )
        self.what, self.config = what, config

    def known(self, names: Iterable[str]) -> None:
        """Refuse options outside ``names``: one that we do not know may change the result."""
        names = list(names)
        for name in self.config:
            if name not in names:
                raise SoftmapError(
                    f"{self.what}: unknown option {name}={self.config[name]!r}"
                    f"{nearest(name, names)}; known: {', '.join(names)}"
                )

    def only(self, table: Mapping[str, Only]) -> None:
        """Refuse the values that we cannot represent."""
        for name, (values, why) in table.items():
            found = self.config.get(name, values[0])
            if found not in values:
                can = " or ".join(map(repr, values))
                raise SoftmapError(
                    f"{self.what}: option {name}={found!r} cannot be represented, only {can}: {why}"
                )

    def get(self, name: str, default: Any = None) -> Any:
        """The option; ``default`` where it is absent or null."""
        found = self.config.get(name)
        return default if found is None else found

    def count(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least ``least``; required where there is no default."""
        found = self.get(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            self._wrong(name, f"a whole number >= {least}", found)
        return found

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; required where there is no default."""
        found = self.get(name, default)
        finite = isinstance(found, int | float) and abs(found) < float("inf")
        if not finite or isinstance(found, bool):
            self._wrong(name, "a number", found)
        return float(found)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        found = self.get(name, default)
        if not isinstance(found, bool):
            self._wrong(name, "true or false", found)
        return found

    def choice(self, name: str, allowed: Mapping[str, Any], default: str) -> Any:
        """What ``allowed`` holds for the option's value."""
        found = self.get(name, default)
        if found not in allowed:
            can = ", ".join(allowed)
            raise SoftmapError(
                f"{self.what}: option {name}={found!r} cannot be represented; can be: {can}"
            )
        return allowed[found]

    def divisible(self, big: tuple[str, int], small: tuple[str, int]) -> int:
        """big / small, an error naming both where it leaves a rest."""
        if big[1] % small[1]:
            raise SoftmapError(
                f"{self.what}: {big[0]} must be a multiple of {small[0]}, "
                f"found {big[1]} and {small[1]}"
            )
        return big[1] // small[1]

    def _wrong(self, name: str, expected: str, found: Any) -> None:
        said = "none" if found is None else repr(found)
        raise SoftmapError(f"{self.what}: option {name} must be {expected}, found {said}")
