"""Trials in processes of their own: the same bits, and nothing lost when one is killed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import lab_tiny
import lab_work
import psutil
import pytest
import torch

from softmap.errors import SoftmapError
from softmap.lab import session as sessions
from softmap.lab.compare import Request, compare
from softmap.lab.interrupts import Interrupted
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.roster import Roster, read
from softmap.lab.schedule import TrainingTask, _Deaths, completed
from softmap.lab.tune import tune
from softmap.lab.workers import WorkerDied, Workers, default_jobs

TRIALS = ("transformerpp/seed0", "diff/seed0")


def same(run: Path, other: Path) -> None:
    """All that was learned is equal, bit for bit."""
    for trial in TRIALS:
        mine, theirs = (folder / "variants" / trial for folder in (run, other))
        found = [json.loads((folder / "result.json").read_text()) for folder in (mine, theirs)]
        for key in ("budgets", "fingerprint", "model", "impl", "threads"):
            values = [result[key] for result in found]
            if key == "budgets":
                values = [[(b["step"], b["loss"], b["stderr"]) for b in v] for v in values]
            assert values[0] == values[1], key
        assert losses(mine) == losses(theirs)


def losses(trial: Path) -> list[float]:
    lines = (trial / "train.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def children() -> list[psutil.Process]:
    """Workers that live."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "softmap.lab.workers" in " ".join(process.cmdline())]


@pytest.mark.slow
def test_a_killed_worker_goes_on_and_all_learn_what_one_process_learns(
    tiny: Recipe, finished: Path, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "run_trial", lab_work.killed_once)
    display = lab_tiny.Notes()
    run = compare(tiny, Request(tmp_path / "runs", jobs=2), display).parent
    same(run, finished)
    assert sum("its process died (SIGKILL); it goes on" in text for text in display.said) == 1
    assert json.loads((run / "run.json").read_text())["device"]["jobs"] == 2
    assert not children() and not list(run.rglob("checkpoints")) and not list(run.rglob("*.tmp"))


class StopAtFirstStep(Display):
    def step(self, label: str, seed: int, metrics: Mapping[str, float]) -> None:
        super().step(label, seed, metrics)
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_a_stopped_run_keeps_what_each_worker_did(
    tiny: Recipe, finished: Path, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(tmp_path / "runs", jobs=2)
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "run_trial", lab_work.slow)
        with pytest.raises(Interrupted) as stop:
            compare(tiny, request, StopAtFirstStep())
    assert stop.value.signal == signal.SIGTERM and not children()
    run = tmp_path / "runs" / "tiny"
    assert list(run.glob("variants/*/seed0/checkpoints/*")) and not list(run.rglob("*.tmp"))
    assert not list(run.rglob("result.json"))
    compare(tiny, dataclasses.replace(request, jobs=1))
    same(run, finished)


@pytest.mark.slow
def test_a_task_whose_process_dies_again_and_again_is_named_at_the_end(tmp_path: Path) -> None:
    deaths = {"never": 0, "twice": 2, "always": 99, "stopped": 1}
    kinds = {"stopped": signal.SIGTERM}  # by somebody else than its parent
    tasks = [
        TrainingTask(name, 0, tmp_path / name, functools.partial(
            lab_work.dies, tmp_path / f"deaths of {name}", times, kinds.get(name, signal.SIGKILL)
        ))
        for name, times in deaths.items()
    ]  # fmt: skip
    display, ended = lab_tiny.Notes(), {}
    display.plan(dict.fromkeys([*deaths, "further"], 1), 1, 1)
    further = functools.partial(lab_work.gets_further_and_dies, tmp_path / "further", 5)
    tasks.append(TrainingTask("further", 0, tmp_path / "further", further))
    said = r"always seed 0 \(SIGKILL\): the process died 3 times at the same point"
    with Workers(2) as pool, pytest.raises(SoftmapError, match=said):
        for done, found in completed(pool, Roster(tmp_path, tasks, 1), display):
            ended[done.label] = found["deaths"]
    assert ended == {"never": 0, "twice": 2, "stopped": 1, "further": 5}
    assert len(list((tmp_path / "deaths of always").iterdir())) == 3
    stand = {entry["label"]: (entry["ended"], entry["failed"]) for entry in read(tmp_path)}
    assert stand["always"] == (False, "its process died 3 times at the same point, last by SIGKILL")
    assert all(stand[name] == (True, None) for name in ended)
    assert sum(text.startswith("twice seed 0: its process died") for text in display.said) == 2
    assert not children()


@pytest.mark.slow
def test_a_process_is_used_again_and_says_what_went_wrong(tmp_path: Path) -> None:
    with Workers(1) as executor:
        first, *_, last = [executor.submit(lab_work.counts, tmp_path) for _ in range(3)]
        assert first.result() == last.result() and first.result()["threads"] == 1
        with pytest.raises(SoftmapError, match=r"^1 and 3 are odd$"):
            executor.submit(lab_work.fails, "ours").result()
        with pytest.raises(SoftmapError, match=r"^/nowhere/at/all: No such file"):
            executor.submit(lab_work.fails, "system").result()
        with pytest.raises(RuntimeError, match="nobody expects it"):
            executor.submit(lab_work.fails, "other").result()
        assert executor.submit(lab_work.counts, tmp_path).result() == first.result()
        with pytest.raises(WorkerDied, match="SIGKILL"):
            executor.submit(lab_work.dies, tmp_path / "one", 1).result()
        assert executor.submit(lab_work.counts, tmp_path).result()["pid"] != first.result()["pid"]
        waiting = [executor.submit(time.sleep, 60) for _ in range(3)]
        executor.shutdown(cancel_futures=True)
    assert waiting[-1].cancelled() and not children()


@pytest.mark.slow
def test_points_in_workers_are_the_points_of_one_process(tiny: Recipe, tmp_path: Path) -> None:
    peaks = [
        json.loads(tune(tiny, Request(tmp_path / str(jobs), jobs=jobs)).read_text())["peaks"]
        for jobs in (1, 2)
    ]
    assert peaks[0] == peaks[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow)],
)
def test_a_signal_to_the_terminal_or_the_parent_leaves_nobody(
    tmp_path: Path, number: int, status: int
) -> None:
    """Ctrl-C reaches all processes of the terminal; a kill reaches the parent alone."""
    lab_tiny.write_recipe(tmp_path)
    argv = ["compare", "tiny.yaml", "--steps", "100000", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "softmap", *argv],
        stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    logs = "runs/tiny/variants/*/seed0/train.jsonl"
    while len([path for path in tmp_path.glob(logs) if path.stat().st_size]) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in said
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() for worker in workers)
    if number == signal.SIGINT:
        assert said.splitlines()[-1].startswith("softmap: stopped; go on with: softmap compare")
        assert len(list(tmp_path.glob("runs/tiny/variants/*/seed0/checkpoints/*"))) >= 2


def test_jobs_are_numbers_from_one() -> None:
    assert default_jobs(torch.device("cpu")) >= 1
    assert default_jobs(torch.device("cpu"), needed=2**60) == 1  # as memory allows
    for jobs in (0, -1, 1.5, True):
        with pytest.raises(SoftmapError, match="jobs: expected"):
            Request(jobs=jobs)  # type: ignore[arg-type]


def test_deaths_count_from_where_a_task_last_got_further(tmp_path: Path) -> None:
    deaths, task = _Deaths(), TrainingTask("one", 0, tmp_path, lambda _: {})
    counted = []
    names = ["", "", "000-000000002", "000-000000002", "000-000000010", "001-000000010"]
    for name in names:
        if name:
            (tmp_path / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
        counted.append(deaths.of(task))
    assert counted == [1, 2, 1, 2, 1, 1]
    assert [deaths.of(task), deaths.of(TrainingTask("two", 0, tmp_path, lambda _: {}))] == [2, 1]
