"""Several processes and one verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import stand_in
from softmap.ops import BACKENDS, attention, choose
from stand_in import a_call
chosen = {"stand_in": stand_in, **{n: BACKENDS[n] for n in ("chunked", "reference")}}
attention.__globals__["BACKENDS"] = chosen
print(choose(a_call()))
"""


def process(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    own = {"SOFTMAP_CACHE": str(tmp_path / "cache"), "LOG": str(tmp_path / "log")}
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": path, **own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_race_try_once(tmp_path: Path) -> None:
    racers = [process(tmp_path, FAULT="k") for _ in range(2)]
    said = [racer.communicate(timeout=120) for racer in racers]
    assert [out.strip() for out, _ in said] == ["chunked"] * 2, said
    assert len(set((tmp_path / "log").read_text().split())) == 1
    assert sorted(err.count("passing over") for _, err in said) == [0, 1]


@pytest.mark.slow
def test_one_that_ends_its_process_is_passed_over_the_third_time(tmp_path: Path) -> None:
    said = []
    for _ in range(3):
        running = process(tmp_path, FAULT="dies")
        out, err = running.communicate(timeout=120)
        said.append((running.returncode, out.strip(), "2 processes ended" in err))
    assert said == [(9, "", False), (9, "", False), (0, "chunked", True)]
    assert not list((tmp_path / "cache").rglob("*.trying"))
