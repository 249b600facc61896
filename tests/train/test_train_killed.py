"""kill -9, at random moments and in the middle of saves: what is learned is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import killed
import pytest
import torch
from train_stub import same

TIMED = ("seconds", "tokens_per_second")


def learned(folder: Path) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What was logged, but for times, and the weights."""
    lines = map(json.loads, (folder / "train.jsonl").read_text().splitlines())
    kept = [{name: v for name, v in line.items() if name not in TIMED} for line in lines]
    return kept, torch.load(folder / "final.pt")


@pytest.mark.slow
def test_a_training_killed_twenty_times_ends_as_if_never_killed(tmp_path: Path) -> None:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    script, env = str(Path(killed.__file__)), {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, script, str(disturbed)], capture_output=True, text=True, env=env,
        check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [str(killed.MOMENTS), str(killed.SAVES)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        killed.live(undisturbed, every=0)
    finally:
        torch.set_num_threads(threads)
    (lines, weights), (again, its) = learned(undisturbed), learned(disturbed)
    assert len(lines) > killed.OPTIONS.steps and lines == again
    assert same(weights, its)
    resumes = (disturbed / "resumes.jsonl").read_text().splitlines()
    assert {json.loads(line)["exact"] for line in resumes} == {True}
