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


def ask(server: Server, line: str, host: str | None = "localhost") -> tuple[int, bytes]:
    """Status and body of the answer to a raw request."""
    port = int(server.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port)) as link:
        named = "" if host is None else f"Host: {host.format(port=port)}\r\n"
        link.sendall(f"{line} HTTP/1.1\r\n{named}Connection: close\r\n\r\n".encode())
        with link.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with its page, a chart, and what is nobody's business."""
    folder = tmp_path / "run"
    (folder / "charts").mkdir(parents=True)
    (folder / "variants" / "diff" / "seed0").mkdir(parents=True)
    for name in ("train.jsonl", "trial.json"):
        (folder / "variants" / "diff" / "seed0" / name).write_text(name)
    (tmp_path / "secret.svg").write_text("secret")
    for name in ("report.html", "report.json", "report.csv", "charts/a.svg", "run.json", ".lock"):
        (folder / name).write_text(name)
    (folder / "charts" / "b.svg").symlink_to(tmp_path / "secret.svg")
    return folder


def test_the_page_and_its_files_alone_are_served(run: Path) -> None:
    with Server(run, 0) as server:
        for name in ("report.html", "report.json", "report.csv", "charts/a.svg"):
            assert ask(server, f"GET /{name}") == (200, name.encode())
        assert ask(server, "GET /variants/diff/seed0/train.jsonl") == (200, b"train.jsonl")
        assert ask(server, "GET /?x=1") == (200, b"report.html")
        assert ask(server, "HEAD /report.html") == (200, b"")
        for name in (
            "run.json", ".lock", "variants/", "charts", "charts/", "charts/b.svg", "charts/c.svg",
            "../secret.svg", "charts/../../secret.svg", "charts/%2e%2e/%2e%2e/secret.svg",
            "/etc/passwd", "%2fetc%2fpasswd", "report.html/", "report.html%00", "charts//a.svg",
            "%ff%fe.svg", "variants/diff/seed0/trial.json", "variants/../seed0/train.jsonl",
            "variants/diff/seed1/train.jsonl", "variants/train.jsonl",
        ):  # fmt: skip
            status, body = ask(server, f"GET /{name}")
            assert status == 404 and b"secret" not in body, name
        for address in ("http://[", "http://evil.example/report.html", "*"):
            assert ask(server, f"GET {address}")[0] == 404
        for verb in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(server, f"{verb} /report.html")[0] == 501


def test_links_do_not_lead_out(run: Path, tmp_path: Path) -> None:
    (run / "report.html").unlink()
    (run / "report.html").symlink_to(tmp_path / "secret.svg")
    (run / "charts").rename(tmp_path / "charts")
    (run / "charts").symlink_to(tmp_path / "charts")
    (run / "variants").rename(tmp_path / "variants")
    (run / "variants").symlink_to(tmp_path / "variants")
    with Server(run, 0) as server:
        for name in ("", "report.html", "charts/a.svg", "variants/diff/seed0/train.jsonl"):
            assert ask(server, f"GET /{name}")[0] == 404


def test_only_this_machines_names_are_answered(run: Path) -> None:
    with Server(run, 0) as server:
        for host in ("localhost:{port}", "127.0.0.1", "LOCALHOST", "[::1]:{port}"):
            assert ask(server, "GET /report.html", host)[0] == 200
        for host in ("evil.example:{port}", "localhost.evil.example", "", None, "127.0.0.1@x"):
            status, body = ask(server, "GET /report.html", host)
            assert status == 403 and b"report.html" not in body
