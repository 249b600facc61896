"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 1000  #: characters of a message


class SoftmapError(ValueError):
    """Bad input. The message is one line: what is wrong, what was expected, what was found.

    A ``ValueError``, so that library users need not import it; the command line prints its
    message alone and exits with status 2. Line breaks, control characters and overlong parts of
    what was found are taken out of the message here, once for all.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str, limit: int = LONGEST) -> str:
    """Returns ``text`` with single spaces for all white space, escapes for what cannot be
    printed, and dots for the middle of what is longer than ``limit``.
    """
    text = " ".join(text[: 10 * limit].split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = limit // 2 - 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"


def shown(value: Any, limit: int = 80) -> str:
    """Returns ``repr(value)`` for a message, cut to ``limit`` characters."""
    try:
        return one_line(repr(value), limit)
    except Exception:  # an integer of 5000 digits, an object whose repr is broken
        name = type(value).__name__
        return f"an integer of {value.bit_length()} bits" if name == "int" else f"a {name}"


def reason(error: BaseException, limit: int = 200) -> str:
    """Returns the type of another library's error and the first line of its message."""
    text = str(error).strip().split("\n")[0]
    name = type(error).__name__
    return f"{name}: {one_line(text, limit)}" if text else name


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns ``" (did you mean 'a' or 'b'?)"`` for the known names nearest to ``name``, at
    most three, or ``""``.

    Args:
        prefix: is put before each of them, such as the dashes of an option.
    """
    word = name[:100]
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    close = [one for one in close if _alike(one, word) > _alike(close[0], word) - 0.3]
    listed = " or ".join(repr(prefix + found) for found in close)
    return f" (did you mean {listed}?)" if close else ""


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def nearest_or_all(name: str, known: Iterable[str]) -> str:
    """Returns [`nearest`][], or all known names where none is near."""
    known = list(known)
    return nearest(name, known) or f" (there are: {', '.join(known)})"
