"""Reads a foreign configuration option by option, each with its kind and default."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from softmap.errors import SoftmapError, nearest
from softmap.interop import published

LARGEST = 2**40  # of a size or a count; beyond it arithmetic fails before any check of a shape


class Only(NamedTuple):
    """The values of an option that can be represented (the first is its default), and why."""

    values: tuple[Any, ...]
    why: str


class OptionReader:
    """The options of ``what``. Every method raises ``ValueError`` naming the option that it
    rejects.
    """

    def __init__(self, what: str, config: Mapping[str, Any]) -> None:
        if not isinstance(config, Mapping):
            raise SoftmapError(
                f"{what}: config must be a mapping of options, found {type(config).__name__}"
            )
        for name in config:
            if not isinstance(name, str) or not name.isprintable():
                raise SoftmapError(f"{what}: the names of options must be strings, found {name!r}")
        self.what, self.config = what, config

    def known(self, names: Iterable[str], others: Iterable[str] = ()) -> None:
        """Refuse options outside of both lists: an unknown one may change the result."""
        names, others = list(names), list(others)
        known = f"; known: {', '.join(names)}" if names else ""
        for name in self.config:
            if name not in names and name not in others:
                raise SoftmapError(
                    f"{self.what}: unknown option {name}={self.config[name]!r}"
                    f"{nearest(name, [*names, *others])}{known}"
                )

    def published(self, own: Iterable[str], unread: Iterable[str]) -> None:
        """Check the names as [`known`][] does for a config.json, where transformers' fields may
        have their defaults.

        Args:
            own: the model's fields that are read.
            unread: those that change no output.
        """
        fixed = published.FIXED | published.GENERATION
        self.known([*own, *published.READ], [*unread, *published.NOTES, *fixed])
        why = "softmap does not read it"
        generation = "a default of generation, which belongs in generation_config.json"
        for name, default in fixed.items():
            reason = generation if name in published.GENERATION else why
            self.only({name: Only((default, None), reason)})

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
        """Returns the option, ``default`` where it is absent or null."""
        found = self.config.get(name)
        return default if found is None else found

    def count(self, name: str, default: int | None = None, least: int = 1) -> int:
        """Returns an integer of at least ``least``; required if there is no default."""
        found = self.get(name, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            self._wrong(name, f"a whole number >= {least}", found)
        if found > LARGEST:
            self._wrong(name, f"a whole number <= {LARGEST}", found)
        return found

    def number(
        self,
        name: str,
        default: float | None = None,
        least: float = -math.inf,
        above: float = -math.inf,
    ) -> float:
        """Returns a finite number in float64; required if there is no default."""
        found = self.get(name, default)
        real = isinstance(found, int | float) and not isinstance(found, bool)
        if not real or not abs(found) < 2**1023:
            self._wrong(name, "a number", found)
        if found < least or not found > above:
            bound = f">= {least:g}" if least > -math.inf else f"> {above:g}"
            self._wrong(name, f"a number {bound}", found)
        return float(found)

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns true or false."""
        found = self.get(name, default)
        if not isinstance(found, bool):
            self._wrong(name, "true or false", found)
        return found

    def choice(self, name: str, allowed: Mapping[str, Any], default: str) -> Any:
        """Returns what ``allowed`` holds for the option's value."""
        found = self.get(name, default)
        if not isinstance(found, str) or found not in allowed:
            can = ", ".join(allowed)
            raise SoftmapError(
                f"{self.what}: option {name}={found!r} cannot be represented; can be: {can}"
            )
        return allowed[found]

    def follows(self, name: str, value: int, why: str) -> None:
        """Accept the option if it agrees with what follows from the others."""
        if (found := self.get(name, value)) != value:
            self._wrong(name, f"{value}, which is {why}", found)

    def tokens(self, vocabulary: int) -> dict[str, Any]:
        """Returns the ids of special tokens: each null or in the vocabulary; that of the end
        may be several.
        """
        made = {}
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            made[name] = found = self.get(name)
            several = isinstance(found, list) and name == "eos_token_id"
            for one in found if several else [found]:
                whole = isinstance(one, int) and not isinstance(one, bool)
                if one is not None and not (whole and 0 <= one < vocabulary):
                    self._wrong(name, f"null or a token id from 0 to {vocabulary - 1}", found)
        return made

    def divisible(self, big: tuple[str, int], small: tuple[str, int]) -> int:
        """Returns big / small; the error names both where there is a remainder."""
        if big[1] % small[1]:
            raise SoftmapError(
                f"{self.what}: {big[0]} must be a multiple of {small[0]}, "
                f"found {big[1]} and {small[1]}"
            )
        return big[1] // small[1]

    def _wrong(self, name: str, expected: str, found: Any) -> NoReturn:
        said = "none" if found is None else repr(found)
        raise SoftmapError(f"{self.what}: option {name} must be {expected}, found {said}")
