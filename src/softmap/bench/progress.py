"""Progress on stderr while the bench works."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """One line, overwritten on a terminal; elsewhere a line at most every ten seconds."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval, self._shown = interval, -interval

    def __call__(self, text: str) -> None:
        """Show the text, in place of the previous line on a terminal."""
        if self._live:
            print(f"\r\x1b[K{text[:110]}", end="", file=self._stream, flush=True)
        elif time.monotonic() - self._shown >= self._interval:
            self._shown = time.monotonic()
            print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        """Clear the line before something else is printed."""
        if self._live:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
