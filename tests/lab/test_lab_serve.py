"""The page over HTTP."""

from __future__ import annotations

import socket
import urllib.request
from pathlib import Path

import pytest

from softmap.errors import SoftmapError
from softmap.lab.serve import Server


def test_the_page_is_served_and_the_port_given_back(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("here it is")
    with Server(tmp_path, 0) as server:
        assert urllib.request.urlopen(server.url).read() == b"here it is"
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url, timeout=1)


@pytest.mark.parametrize("port", ["taken", 70000])
def test_a_port_that_cannot_be_had(tmp_path: Path, port: str | int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1] if port == "taken" else port
        with pytest.raises(SoftmapError, match=f"port {number}: cannot be used"):
            Server(tmp_path, int(number))
