"""Several real processes on gloo. What each does is in ``ranks.py``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.nn import Share
from softmap.report.load import read_log
from softmap.train import Layout
from softmap.train.processes import processes, report_once

CPU = torch.device("cpu")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(ranks: int, *argv: str, port: int | None = None, **more: str) -> list[subprocess.Popen]:
    """One process for each rank, as torchrun would start them."""
    given = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port or free_port()}
    given |= {"OMP_NUM_THREADS": 1, **more}
    every = {name: str(value) for name, value in given.items()}
    return [
        subprocess.Popen(
            [sys.executable, *argv],
            env=os.environ | every | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def work(ranks: int, works: str, folder: Path) -> None:
    script = str(Path(__file__).with_name("ranks.py"))
    every = started(ranks, script, works, str(folder))
    said = [process.communicate(timeout=600)[0] for process in every]
    assert [process.returncode for process in every] == [0] * ranks, "\n".join(said)


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    """In one spawn: importing takes longer than all of it."""
    work(2, "layouts,resume,sigterm,refusals", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_rows_of_every_variant(tmp_path: Path, ranks: int) -> None:
    work(ranks, "context", tmp_path)


@pytest.mark.slow
def test_every_variant_in_two_layouts(tmp_path: Path) -> None:
    work(2, "variants", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
def test_more_ranks(tmp_path: Path, ranks: int) -> None:
    work(ranks, "layouts,resume" if ranks == 3 else "layouts", tmp_path)


@pytest.mark.slow
def test_a_rank_that_hangs(tmp_path: Path) -> None:
    work(2, "hang", tmp_path)


@pytest.mark.slow
def test_compiled_blocks(tmp_path: Path) -> None:
    work(2, "compiled", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_resharded(tmp_path: Path, before: int, after: int) -> None:
    work(before, "save", tmp_path)
    work(after, "go_on", tmp_path)


@pytest.mark.slow
def test_a_killed_rank(tmp_path: Path) -> None:
    """The other stops and says why; torchrun starts both again; the losses are undisturbed."""
    script = str(Path(__file__).with_name("ranks.py"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "2", "--master-port", str(free_port())]
    done = subprocess.run(
        [*torchrun, script, "survive", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rank 0: another process is gone") == 2, done.stderr
    assert (tmp_path / "survive" / "attempts").read_text() == "2"
    work(2, "undisturbed", tmp_path)
    logs = [read_log(tmp_path / name / "train.jsonl") for name in ("survive", "undisturbed")]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(shard=4), "parallel.shard: expected a divisor of the 6 processes, found 4"),
        (Layout(context=5), "parallel.context: expected a divisor of the 6 processes, found 5"),
        (Layout(context=2), "training.batch_size: expected a multiple of 3, .* found 8"),
        (Layout(context=6), "model.context: expected at least 12 tokens, .* found 9"),
    ],
)
def test_sizes_that_ranks_do_not_divide(layout: Layout, message: str) -> None:
    with pytest.raises(SoftmapError, match=message):
        layout.check(6, batch_size=8, context=9)


def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line: a variable of torchrun's that is missing, a port in use, a missing rank."""

    def said() -> str:
        with pytest.raises(SoftmapError) as caught, processes(Layout(timeout=1), CPU, {}):
            raise AssertionError("they met")
        (line,) = str(caught.value).splitlines()
        return line

    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert "WORLD_SIZE: expected a whole number in the environment, found 'two'" in said()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "RANK, MASTER_ADDR, MASTER_PORT: expected in the environment" in said()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        assert "the port is in use" in said()
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    assert "expected 2 processes to meet at 127.0.0.1" in said()


def test_what_all_ranks_find_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, kind in (("0", SoftmapError), ("1", SystemExit)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(kind), report_once():
            raise SoftmapError("a fault of the recipe")


def test_shares_are_balanced_and_hold_each_row_once() -> None:
    for ranks, tokens in ((2, 4), (3, 13), (4, 64), (5, 11)):
        bands = [Share(None, rank, ranks, tokens).bands for rank in range(ranks)]
        rows = sorted(row for own in bands for band in own for row in band)
        assert rows == list(range(tokens))
        cost = [sum(row + 1 for band in own for row in band) for own in bands]
        assert max(cost) - min(cost) <= 2 * tokens
    with pytest.raises(SoftmapError, match="expected at least 6 tokens, two bands for each"):
        Share(None, 0, 3, 5)
