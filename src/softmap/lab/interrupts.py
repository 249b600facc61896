"""One exception for Ctrl-C, SIGTERM and SIGHUP, so that every ``finally`` runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Raised when the user or the system asks to stop; everything done so far is on disk.

    ``signal`` is SIGINT, SIGTERM or SIGHUP; the exit status is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise [`Interrupted`][], as Ctrl-C raises KeyboardInterrupt.

    An ignored SIGHUP (under ``nohup``) stays ignored. Outside of the main thread, where Python
    allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    heard = [signal.SIGTERM, *hangup]
    before = {number: signal.signal(number, _raise) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)
