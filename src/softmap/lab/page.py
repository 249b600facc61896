"""A run's page while the run goes on."""

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

    It is built when the ``with`` block ends, also by a stop or an error.
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
            with contextlib.suppress(Exception):  # nothing has finished, or this very trouble
                self.refresh()

    def changed(self) -> None:
        """Write the page after a trial has finished, unless it is too soon."""
        self._stale = True
        if time.monotonic() - self._built < 30 * self._seconds:
            return
        try:
            self.refresh()
        except Exception as error:  # hours of training do not end for a drawing
            self.display.note(f"the page could not be built yet: {error}")

    def refresh(self) -> None:
        """Write the page if anything has changed."""
        if self._stale:
            began = time.monotonic()
            self.path = report.build(self.folder)
            self._stale, self._built = False, time.monotonic()
            self._seconds = self._built - began
