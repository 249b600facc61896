"""A run's page, kept up to date while the run continues."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Self

from softmap import report
from softmap.errors import SoftmapError
from softmap.lab.progress import Display


class Page:
    """The run's page, kept up to date in at most 3 % of the time.

    It is also built when the ``with`` block ends, even by an interrupt or an error.
    """

    def __init__(self, folder: Path, display: Display) -> None:
        self.folder, self.path, self.display = folder, folder / "report.html", display
        self._stale, self._built, self._seconds = True, -math.inf, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if error is None:
            self.refresh()
        elif isinstance(error, KeyboardInterrupt | SoftmapError):
            with contextlib.suppress(Exception):  # nothing has finished, or the same error again
                self.refresh()

    def changed(self) -> None:
        """Write the page after a trial has finished, unless the last time is too recent."""
        self._stale = True
        if time.monotonic() - self._built < 30 * self._seconds:
            return
        try:
            self.refresh()
        except Exception as error:  # a page must not end hours of training
            self.display.note(f"the page could not be built yet: {error}")

    def refresh(self) -> None:
        """Write the page if anything has changed."""
        if self._stale:
            began = time.monotonic()
            self.path = report.build(self.folder)
            self._stale, self._built = False, time.monotonic()
            self._seconds = self._built - began
