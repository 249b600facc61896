"""Tasks on a pool: what is followed, what is written down, who holds a folder. No process here."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from softmap.errors import SoftmapError
from softmap.lab import roster
from softmap.lab.engine import Engine
from softmap.lab.progress import Display, OnStep
from softmap.lab.roster import Roster, holder, holding, read
from softmap.lab.schedule import TrainingTask, completed, results
from softmap.lab.workers import Pool, WorkerDied


class Threads(Pool):
    """A pool whose places, and whose calls' ends, the test decides."""

    def __init__(self, places: int) -> None:
        self.places, self.begun = places, 0

    @property
    def slots(self) -> int:
        return self.places

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self.begun += 1

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=run).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class Seen(Display):
    def __init__(self) -> None:
        super().__init__()
        self.steps_seen: list[tuple[str, float]] = []
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def step(self, label: str, seed: int, metrics: Mapping[str, float]) -> None:
        super().step(label, seed, metrics)
        self.steps_seen.append((label, metrics["step"]))


def task(folder: Path, name: str, work: Callable[[OnStep], Any]) -> TrainingTask:
    return TrainingTask(name, 0, folder / name, work)


def shown(*labels: str) -> Seen:
    display = Seen()
    display.plan(dict.fromkeys(labels, 1), 30, 1)
    return display


def test_a_task_is_followed_by_its_log_and_what_an_earlier_session_said_is_no_news(
    tmp_path: Path,
) -> None:
    log = tmp_path / "a" / "train.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1, "loss": 9.0}\n')
    display = shown("a")

    def work(_: OnStep) -> dict[str, Any]:
        while not display.rows["a"].running:
            time.sleep(0.01)
        log.write_text('{"step": 1, "loss": 9.0}\n{"step": 20, "loss": 1.5}\n{"step": 2')
        while not display.steps_seen:
            time.sleep(0.01)
        return {"loss": 1.0}

    (only,) = completed(Threads(1), Roster(tmp_path, [task(tmp_path, "a", work)], 30), display)
    assert only[1] == {"loss": 1.0} and display.steps_seen == [("a", 20)]


def test_as_many_run_as_there_are_places_and_places_may_be_added(tmp_path: Path) -> None:
    pool, both = Threads(1), threading.Barrier(2)

    def work(_: OnStep) -> dict[str, Any]:
        pool.places = 2  # from the first on; it ends only beside another
        both.wait(60)
        return {}

    tasks = [task(tmp_path, name, work) for name in "abcd"]
    begun = []
    for done, _ in completed(pool, Roster(tmp_path, tasks, 30), shown(*"abcd")):
        begun.append(pool.begun)
        assert done in tasks
    assert begun[-1] == 4 and [entry["ended"] for entry in read(tmp_path)] == [True] * 4


def test_a_lost_worker_is_replaced_twice_and_then_named(tmp_path: Path) -> None:
    def dies(_: OnStep) -> dict[str, Any]:
        raise WorkerDied("the worker tcp://a:1 has gone")

    tasks = [task(tmp_path, "bad", dies), task(tmp_path, "good", lambda _: {})]
    display = shown("bad", "good")
    with pytest.raises(SoftmapError, match=r"bad seed 0 \(the worker tcp://a:1 has gone\)"):
        list(completed(Threads(2), Roster(tmp_path, tasks, 30), display))
    assert [(e["label"], e["ended"]) for e in read(tmp_path)] == [("bad", False), ("good", True)]
    assert sum("another continues it" in text for text in display.said) == 2


def test_what_waits_is_written_down_before_the_first_begins(tmp_path: Path) -> None:
    def look(_: OnStep) -> dict[str, Any]:
        return {"stand": [(e["label"], e["ended"]) for e in read(tmp_path)]}

    tasks = [task(tmp_path, name, look) for name in "ab"]
    found = [found["stand"] for _, found in results(tasks, Engine(1), shown(*"ab"), tmp_path)]
    assert found == [[("a", False), ("b", False)], [("a", True), ("b", False)]]
    # One whose turn nobody knows beforehand is added to what has ended.
    later = iter([task(tmp_path, "c", look)])
    ((_, out),) = results(later, Engine(1), shown("c"), tmp_path)
    assert out["stand"] == [("a", True), ("b", True), ("c", False)]


HOLD = "import sys, time; from pathlib import Path; from softmap.lab.roster import holding\n" \
       "with holding(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"  # fmt: skip


def test_a_folder_has_one_process_at_a_time_and_a_dead_one_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder(tmp_path) is None
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    try:
        name = holder(tmp_path)
        assert name is not None and name.endswith(f":{other.pid}")
        monkeypatch.setattr(roster, "PATIENCE", 0.0)
        said = f"expected no process at work in it, found {name}"
        with pytest.raises(SoftmapError, match=said), holding(tmp_path):
            pass
        monkeypatch.setattr(roster, "PATIENCE", 60.0)
        threading.Timer(0.3, other.kill).start()
        with holding(tmp_path):  # as soon as the other is no more
            assert other.wait(60) < 0
        assert holder(tmp_path) is None
    finally:
        other.kill()
        other.wait()
