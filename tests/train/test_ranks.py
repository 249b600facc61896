"""Several real processes on gloo. What each does is in ``ranks.py``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


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
def test_three_ranks(tmp_path: Path) -> None:
    work(3, "layouts,resume", tmp_path)
