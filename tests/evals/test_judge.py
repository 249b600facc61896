"""A judge at a stub of an endpoint: what it does not clearly say is never correct."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import known
import pytest

from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.judge import Judge, verdict
from softmap.evals.question import Setting


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next of ``says``: a text, a status, or "wait"."""

    says: list[str | int]
    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["messages"][0]["content"])
        said = self.says.pop(0)
        if said == "wait":
            time.sleep(1.0)
            return
        self.send_response(said if isinstance(said, int) else 200)
        self.end_headers()
        content = {"choices": [{"message": {"content": said}}]}
        self.wfile.write(b"" if isinstance(said, int) else json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def stub() -> Iterator[tuple[type[Stub], str]]:
    kind = type("Own", (Stub,), {"says": [], "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield kind, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_every_kind_of_answer_is_counted(stub: tuple[type[Stub], str]) -> None:
    kind, address = stub
    cases: list[tuple[list[str | int], str]] = [
        (["It is there.\nConclusion: True"], "correct"),
        (["It is not.\n**Conclusion:** False"], "wrong"),
        (["I like it."], "unreadable"),
        (["Conclusion: True. Or conclusion: False"], "unreadable"),
        ([429, 429], "rate limited"),
        ([429, "Conclusion: True"], "correct"),
        ([500, 400], "failed"),
        (["wait", "wait"], "timed out"),
    ]
    judge = Judge(address, tries=2, timeout=0.3, pause=0.01)
    for says, expected in cases:
        kind.says[:] = says
        assert judge.judge("document", "question", "reference", "answer") == expected
        assert not kind.says or expected == "timed out"
    assert judge.counts == {
        "correct": 2, "wrong": 1, "unreadable": 2, "rate limited": 1, "failed": 1, "timed out": 1
    }  # fmt: skip
    assert all(part in kind.asked[0] for part in ("document", "question", "reference", "answer"))


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"choices": []}', b'{"choices": [1]}'])
def test_bodies_that_are_no_completion(body: bytes) -> None:
    assert verdict(body) == "unreadable"


def test_no_endpoint_is_a_failure_not_a_verdict() -> None:
    judge = Judge("http://127.0.0.1:9/v1", tries=1, timeout=0.5)
    assert judge.judge("d", "q", "r", "a") == "failed"
    with pytest.raises(SoftmapError, match="--judge: expected an address"):
        Judge("localhost")


def test_shares_add_up_and_what_is_not_judged_is_not_correct(
    stub: tuple[type[Stub], str], tmp_path: Path
) -> None:
    kind, address = stub
    lines = [{"document": "Ada is here.", "question": "Who?", "reference": "Ada"}] * 4
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    kind.says[:] = ["Conclusion: True", "Conclusion: False", "nonsense", 400]
    who = known.subject(known.Uniform(), 256)
    made = suite(f"halluc:{path}")
    found = known.asked(made, who, judge=Judge(address, tries=1))
    assert found["correct"] == 0.25 and found["no_judgement"] == 0.5
    with pytest.raises(SoftmapError, match="halluc:FILE needs a judge"):
        made.check(who, Setting(256, 257))
