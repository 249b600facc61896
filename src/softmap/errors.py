"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoftmapError(ValueError):
    """Bad input. The message is one line: what is wrong, what was expected, what was found.

    A ``ValueError``, so that library users need not import it; the command line prints its
    message alone and exits with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """``" (did you mean 'a' or 'b'?)"`` for the known names nearest to ``name``, or ``""``."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""
