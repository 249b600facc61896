"""Several real processes on gloo. What each does is in ``ranks.py``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from softmap.report.load import read_log


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
    processes = started(ranks, script, works, str(folder))
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(said)


def test_two_ranks(tmp_path: Path) -> None:
    """In one spawn: importing takes longer than all of it."""
    work(2, "layouts,resume", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_rows_of_every_variant(tmp_path: Path, ranks: int) -> None:
    work(ranks, "context", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
def test_more_ranks(tmp_path: Path, ranks: int) -> None:
    work(ranks, "layouts,resume" if ranks == 3 else "layouts", tmp_path)


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
