"""A run's page over HTTP, on this machine alone."""

from __future__ import annotations

import functools
import http.server
import threading
from pathlib import Path
from typing import Self

from softmap.errors import SoftmapError


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are nobody's news."""


class Server:
    """Serves ``folder`` on 127.0.0.1 while entered; the port is taken at once.

    Raises ``SoftmapError`` for a port that cannot be had. Port 0 takes any free one.
    """

    def __init__(self, folder: Path, port: int) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SoftmapError(f"port {port}: cannot be used ({reason})") from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/report.html"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Until the person at the keyboard has had enough."""
        self._thread.join()
