"""One attention call timed: nothing gets a speed whose numbers are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_backend import AddBackend
from torch import Tensor

from softmap.bench import op, parity
from softmap.cli import main
from softmap.ops.call import Call

SMALL = ["--batch", "2", "--heads", "4", "--head-dim", "8", "--tokens", "24", "--rounds", "3"]
SMALL += ["--peers", "none"]


def bench(out: Path, *flags: str, status: int = 0) -> dict[str, Any]:
    assert main(["bench", "op", *flags, *SMALL, "--out", str(out)]) == status
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def a_kilobyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is measured takes 1000 bytes; tiny calls reuse what the allocator holds."""

    class Kilobyte(op.PeakMemory):
        def __exit__(self, *error: object) -> None:
            self.peak = 1000

    monkeypatch.setattr(op, "PeakMemory", Kilobyte)


def by_name(case: dict[str, Any]) -> dict[str, Any]:
    return {row["candidate"]: row for row in case["rows"]}


def test_what_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(tmp_path / "a.json", "transformer++,diff", "--impl", "folded", "chunked")
    assert found["kind"] == "op" and found["command"].startswith("softmap bench op transformer++")
    assert {"torch", "triton", "compiler"} <= set(found["versions"])
    assert found["device"]["threads"] == torch.get_num_threads() and found["commit"]
    assert [c["variant"] for c in found["cases"]] == ["transformer++", "diff"]
    rows = by_name(found["cases"][1])
    assert set(rows) >= {"folded", "chunked", "sdpa flash", "sdpa math"}
    timed = rows["chunked"]
    assert timed["seconds"]["count"] == 3 and timed["peak_bytes"] >= 0
    assert timed["seconds"]["low"] <= timed["seconds"]["median"] <= timed["seconds"]["high"]
    best = min(
        (r for r in rows.values() if r["plain"] and r["status"] == "timed"),
        key=lambda r: r["seconds"]["median"],
    )
    assert timed["sdpa"] == best["candidate"] and best["over_sdpa"]["median"] == 1
    names = set(timed["parity"]["errors"])
    assert {"output", "d q", "d k", "d v"} <= names
    assert rows["sdpa cudnn"]["status"] == "refused"
    said = capsys.readouterr().out
    assert "chunked" in said and "x SDPA" in said


def scaled(o: Tensor, call: Call) -> Tensor:
    return o * 1.001


def wrong_gradient(o: Tensor, call: Call) -> Tensor:
    return o * 1.01 - (o * 0.01).detach()


def not_a_number(o: Tensor, call: Call) -> Tensor:
    return torch.where(torch.arange(o.shape[2])[:, None] == 5, torch.nan, o)


@pytest.mark.parametrize(
    ("spoil", "where"), [(scaled, "output"), (wrong_gradient, "d "), (not_a_number, "output")]
)
def test_no_speed_beside_wrong_results(
    add_backend: AddBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any,
    where: str,
) -> None:  # fmt: skip
    add_backend("broken", spoil)
    found = bench(tmp_path / "a.json", "dcmha", "--impl", "broken", "reference", status=1)
    rows = by_name(found["cases"][0])
    assert rows["reference"]["status"] == "timed"
    assert rows["broken"]["status"] == "wrong" and where in rows["broken"]["reason"]
    assert not {"seconds", "over_sdpa", "peak_bytes"} & set(rows["broken"])
    said = capsys.readouterr()
    line = next(line for line in said.out.splitlines() if "broken" in line)
    assert "NO SPEED" in line and " ms" not in line
    assert "broken" in said.err


def test_wrong_only_at_the_timed_length(
    add_backend: AddBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float64 map fits 12 tokens only; the error sits beyond."""

    def late(o: Tensor, call: Call) -> Tensor:
        return o if call.keys < 20 else o * 1.01

    monkeypatch.setitem(parity.CELLS, "cpu", 2 * 4 * 12 * 12)
    monkeypatch.setattr(parity, "ROWS", 3)
    add_backend("broken", late)
    found = bench(tmp_path / "a.json", "dape", "--impl", "broken", "chunked", status=1)
    rows = by_name(found["cases"][0])
    assert rows["chunked"]["status"] == "timed" and rows["chunked"]["parity"]["tokens"] == 12
    assert rows["broken"]["status"] == "wrong" and "last rows" in rows["broken"]["reason"]


def test_a_failure_is_its_own_rows_business(add_backend: AddBackend, tmp_path: Path) -> None:
    def fails(o: Tensor, call: Call) -> Tensor:
        raise ValueError("no such thing\nsecond line")

    add_backend("failing", fails)
    rows = by_name(
        bench(tmp_path / "a.json", "diff", "--impl", "failing", "folded", status=1)["cases"][0]
    )
    assert rows["failing"]["reason"] == "ValueError: no such thing"
    assert rows["folded"]["status"] == "timed"


@pytest.mark.parametrize(
    ("message", "tried"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", 2 << 30),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1024 bytes.", 1024),
    ],
)
def test_out_of_memory_names_the_bytes_and_what_takes_less(
    add_backend: AddBackend, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    a_kilobyte: None, message: str, tried: int,
) -> None:  # fmt: skip
    def full(o: Tensor, call: Call) -> Tensor:
        raise RuntimeError(message)

    add_backend("large", full)
    found = bench(tmp_path / "a.json", "dcmha", "--impl", "large", "chunked")
    row = by_name(found["cases"][0])["large"]
    assert row["status"] == "out of memory" and row["tried_bytes"] == tried
    assert row["instead"] == "chunked" and row["instead_bytes"] == 1000
    assert "chunked took" in capsys.readouterr().out


def test_a_dense_map_that_cannot_fit_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_kilobyte: None
) -> None:
    monkeypatch.setitem(parity.CELLS, "cpu", 2 * 4 * 12 * 12)
    monkeypatch.setattr(op, "FULL", 0.0)
    rows = by_name(
        bench(tmp_path / "a.json", "dcmha", "--impl", "reference", "chunked")["cases"][0]
    )
    row = rows["reference"]
    assert row["status"] == "out of memory" and "would need about 4 kB" in row["reason"]
    assert row["instead"] == "chunked"


def test_an_interrupt_leaves_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once, calls = op.OpBenchmark._once, []

    def interrupted(self: Any, entry: Any, clock: Any) -> float:
        calls.append(entry.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return once(self, entry, clock)

    monkeypatch.setattr(op.OpBenchmark, "_once", interrupted)
    found = bench(tmp_path / "a.json", "diff,dcmha", "--impl", "chunked", status=130)
    assert "stopped" in capsys.readouterr().err
    (case,) = found["cases"]
    rows = by_name(case)
    assert sum(r["seconds"]["count"] for r in rows.values() if r["status"] == "timed") == 4


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_directions(tmp_path: Path, direction: str) -> None:
    flags = ["--direction", direction, "--impl", "folded", "--window", "7", "--dtype", "bf16"]
    found = bench(tmp_path / "a.json", "diff2", *flags)["cases"][0]
    row = by_name(found)["folded"]
    assert row["status"] == "timed" and found["dtype"] == "bfloat16"
    assert ("d q" in row["parity"]["errors"]) == (direction == "backward")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["dif"], "unknown variant 'dif' (did you mean 'diff'"),
        ([","], "at least one variant"),
        (["diff", "--impl", "chunky"], "found 'chunky' (did you mean 'chunked'"),
        (["dcmha", "--impl", "folded"], "impl='folded' cannot run dcmha: Compose"),
        (["diff", "--dtype", "int8"], "--dtype: expected one of float32"),
        (["diff", "--direction", "up"], "--direction: expected one of forward"),
        (
            ["diff", "--tokens", "0"],
            "--tokens[0]: expected a whole number from 1 to 1,073,741,824",
        ),
        (["diff", "--heads", "3"], "even number"),
        (["diff", "--window", "0"], "window"),
        (["diff", "--peers", "nobody"], "--peers: expected none or some of"),
        (
            ["diff", "--rounds", "0"],
            "--rounds: expected a whole number from 1 to 2,147,483,647",
        ),
        (["diff", "--device", "cuda:7"], "--device: cannot use 'cuda:7'"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert main(["bench", "op", *flags]) == 2
    lines = [s for s in capsys.readouterr().err.splitlines() if s.startswith("softmap: error:")]
    assert len(lines) == 1 and says in lines[0]


def test_tokens_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "op", "diff", "--tokens", "many"]) == 2
    assert capsys.readouterr().err == (
        "softmap: error: Error parsing --tokens: Could not find valid parse for arguments: "
        "['many']\n"
    )
