"""A run's page over HTTP, for this machine alone: the page and its files, nothing else."""

from __future__ import annotations

import functools
import http.server
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from softmap.errors import SoftmapError

PAGE = "report.html"
SERVED = re.compile(
    r"report\.(html|json|csv)|charts/[^/.][^/]*\.(svg|png)|variants/[^/.][^/]*/seed\d+/train\.jsonl"
)
LOCAL = r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jsonl": "text/plain; charset=utf-8",
}


_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves the page and its files by GET and HEAD, to requests under this machine's own name."""

    timeout = 30

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_GET(self) -> None:
        content = self._answer()
        if content is not None:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def _answer(self) -> bytes | None:
        """Send the headers, and return the body."""
        # Another site's name that points here (DNS rebinding) could read it from its own page.
        if not _is_local(self.headers.get_all("Host") or []):
            self.send_error(403, "this page is for this machine only")
            return None
        name = _name(self.path)
        content = None if name is None else read_served(self.folder, name)
        if name is None or content is None:
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Type", TYPES[Path(name).suffix])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-TrainingOptions", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        return content


def read_served(folder: Path, name: str) -> bytes | None:
    """Returns the contents of ``name``: the page, its data, its charts or its logs, each a plain
    file.

    None for everything else: other names, folders, and links, wherever they lead.
    """
    if not SERVED.fullmatch(name) or "\0" in name:
        return None
    *inside, file = name.split("/")
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in inside:
                outer, at = at, os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=at)
                os.close(outer)
            with open(os.open(file, _OPEN, dir_fd=at), "rb") as opened:
                if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    return opened.read()
        finally:
            os.close(at)
    except OSError:
        return None
    return None


def _name(target: str) -> str | None:
    """Returns the name of the file that a request asks for; None for other addresses."""
    try:
        asked = urlsplit(target)
    except ValueError:
        return None
    if asked.netloc and not _is_local([asked.netloc]):
        return None
    return unquote(asked.path).lstrip("/") or PAGE


def _is_local(hosts: list[str]) -> bool:
    """Returns whether the only Host header names this machine, with any port."""
    return len(hosts) == 1 and re.fullmatch(LOCAL, hosts[0].strip().lower()) is not None


class _Listener(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore readers that are gone."""


class Server:
    """Serves ``folder`` on 127.0.0.1 while entered; the port is taken at once.

    Port 0 takes any free one. Raises ``SoftmapError`` for a port that is not available.
    """

    def __init__(self, folder: Path, port: int) -> None:
        handler = functools.partial(_Handler, folder)
        try:
            self._server = _Listener(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SoftmapError(f"port {port}: cannot be used ({reason})") from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/{PAGE}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Wait for Ctrl-C."""
        self._thread.join()
