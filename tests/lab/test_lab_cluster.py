"""Trials on the workers of a Dask cluster: real schedulers, workers and deaths, on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lab_tiny
import lab_work
import pytest
from test_lab_workers import StopAtFirstStep, same

from softmap import extras
from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab import remote
from softmap.lab import session as sessions
from softmap.lab.cluster import FOLDER, Cluster, connected, parse
from softmap.lab.compare import Request, compare
from softmap.lab.engine import Engine
from softmap.lab.interrupts import Interrupted
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.roster import read
from softmap.lab.schedule import TrainingTask, results
from softmap.lab.tune import tune

dask = pytest.mark.skipif(not extras.installed("distributed"), reason="distributed is not there")


@pytest.fixture(scope="module")
def couple() -> Iterator[Cluster]:
    with connected("local:2") as found:
        assert found is not None
        yield found


@pytest.fixture
def pair(couple: Cluster) -> Cluster:
    """Two workers of one thread each; those that an earlier test killed have begun again."""
    couple.client.wait_for_workers(2)
    return couple


def test_what_names_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text("{}")
    for text in (
        "tcp://10.0.0.1:8786",
        "node-3:8786",
        "tls://a.b.c:1",
        f"{tmp_path}/scheduler.json",
    ):
        assert parse(text) == text
    assert parse("local:12") == 12
    for text in ("local:0", "local:1001", "local:x", "local", "node", "a b:1", "tcp://:1", ""):
        with pytest.raises(SoftmapError, match="expected a scheduler's address such as"):
            parse(text)
    with pytest.raises(SoftmapError, match=r"expected the scheduler's file, found none at no"):
        parse("no.json")


@pytest.mark.parametrize(
    "words", [["compare"], ["learn", "recall"], ["claims", "run", "sas-remove"]]
)
def test_without_distributed_the_extra_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    there = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: name != "distributed" and there(name))
    assert main([*words, "--cluster", "local:2"]) == 2
    said = "--cluster needs distributed, which is not installed: pip install 'softmap[cluster]'"
    assert capsys.readouterr().err == f"softmap: error: {said}\n"
    assert main([*words, "--cluster", "local:2", "--out", "s3://bucket/runs"]) == 2
    if words[0] != "claims":  # whose models lie in --runs
        assert "found the URL s3:/bucket/runs" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def terms(folder: Path, **changed: Any) -> remote.WorkerTerms:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / remote.SESSION).write_text("abc 1\n")
    return remote.WorkerTerms(str(folder), folder, "abc", remote.versions(), **changed)


def test_a_worker_objects_to_what_it_does_not_see_or_have(tmp_path: Path) -> None:
    mine = terms(tmp_path / "run" / FOLDER)
    assert remote.objection(mine) is None
    other = dataclasses.replace(mine, mark="xyz")  # of another client
    assert "cannot see what was written to" in str(remote.objection(other))
    assert str(tmp_path / "run") in str(remote.objection(other))
    away = dataclasses.replace(mine, here=str(tmp_path / "home"))
    assert f"cannot see the folder {tmp_path / 'home'}" in str(remote.objection(away))
    old = dataclasses.replace(mine, versions={**mine.versions, "torch": "1.0"})
    found = mine.versions["torch"]
    assert remote.objection(old) == f"has torch {found}, expected torch 1.0"


def test_a_call_is_over_when_its_client_falls_silent_or_goes_or_its_worker_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    mine, worker = terms(tmp_path / FOLDER), SimpleNamespace(status=SimpleNamespace(name="running"))
    session = tmp_path / FOLDER / remote.SESSION
    over = remote._Over(mine, worker)
    clock[0] += 0.9 * remote.SILENCE
    session.write_text("abc 2\n")
    assert not over()  # it is heard
    clock[0] += 0.9 * remote.SILENCE
    assert not over()
    clock[0] += 0.2 * remote.SILENCE
    assert over()
    session.write_text("abc 3\n")
    assert not over()
    worker.status.name = "closing"
    assert over()
    worker.status.name = "running"
    session.write_text("xyz 1\n")  # another client's
    assert over()
    session.unlink()
    assert over()


def test_an_unreachable_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("softmap.lab.cluster.CONNECT", 0.5)
    said = r"--cluster tcp://127.0.0.1:9: expected a scheduler, found none \(OSError"
    with pytest.raises(SoftmapError, match=said), connected("tcp://127.0.0.1:9"):
        pass


@dask
@pytest.mark.slow
def test_a_worker_that_is_killed_gives_its_trial_back_and_all_is_as_in_one_process(
    pair: Cluster, tiny: Recipe, finished: Path, tmp_path: Path, no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sessions, "run_trial", lab_work.machine_killed_once)
    display = lab_tiny.Notes()
    run = compare(tiny, Request(tmp_path / "runs", cluster=pair), display).parent
    same(run, finished)
    assert sum("its process died (the worker tcp://" in text for text in display.said) == 1
    facts = json.loads((run / "run.json").read_text())["device"]
    assert facts["jobs"] == 2 and facts["cluster"] == "local:2"
    assert not (run / FOLDER).exists() and not list(run.rglob("checkpoints"))
    assert [row.done for row in display.rows.values()] == [1, 1]


@dask
@pytest.mark.slow
def test_points_on_a_cluster_are_the_points_of_one_process(
    pair: Cluster, tiny: Recipe, tmp_path: Path
) -> None:
    requests = Request(tmp_path / "here"), Request(tmp_path / "there", cluster=pair)
    here, there = (json.loads(tune(tiny, request).read_text())["peaks"] for request in requests)
    assert here == there


@dask
@pytest.mark.slow
def test_a_stopped_run_leaves_checkpoints_and_no_work_on_the_workers(
    pair: Cluster, tiny: Recipe, finished: Path, tmp_path: Path, no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    request = Request(tmp_path / "runs", cluster=pair)
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "run_trial", lab_work.slow)
        with pytest.raises(Interrupted) as stop:
            compare(tiny, request, StopAtFirstStep())
    assert stop.value.signal == signal.SIGTERM
    run = tmp_path / "runs" / "tiny"
    assert list(run.glob("variants/*/seed0/checkpoints/*")) and not list(run.rglob("result.json"))
    assert not (run / FOLDER).exists() and not any(pair.client.processing().values())
    compare(tiny, dataclasses.replace(request, cluster=None))
    same(run, finished)


@dask
@pytest.mark.slow
def test_what_ends_its_workers_again_and_again_is_named_and_the_others_go_on(
    pair: Cluster, tmp_path: Path
) -> None:
    deaths = {"never": 0, "twice": 2, "always": 99}
    tasks = [
        TrainingTask(name, 0, tmp_path / name, functools.partial(
            lab_work.kills_its_worker, tmp_path / f"deaths of {name}", times
        ))
        for name, times in deaths.items()
    ]  # fmt: skip
    display, ended = Display(), {}
    display.plan(dict.fromkeys(deaths, 1), 1, 1)
    with pytest.raises(SoftmapError, match=r"not finished: always seed 0 \(the worker tcp://"):
        for done, found in results(tasks, Engine(2, pair), display, tmp_path):
            ended[done.label] = found["deaths"]
    assert ended == {"never": 0, "twice": 2}
    assert len(list((tmp_path / "deaths of always").iterdir())) == 3
    assert "died 3 times" in str([e["failed"] for e in read(tmp_path) if e["label"] == "always"])


@dask
@pytest.mark.slow
def test_a_call_has_a_process_where_the_client_is_and_its_errors_are_those_of_any_pool(
    pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Engine(1, pair).pool(tmp_path) as pool:
        assert pool.slots == 2
        found = pool.submit(lab_work.sees).result()
        workers = pair.client.run(os.getpid).values()
        assert found["folder"] == str(tmp_path) and found["parent"] in workers
        assert found["MALLOC_TRIM_THRESHOLD_"] is None
        again = [pool.submit(lab_work.sees).result()["process"] for _ in range(3)]
        assert len({found["process"], *again}) <= 2  # a process makes many calls, as anywhere
        with pytest.raises(SoftmapError, match=r"^1 and 3 are odd$"):
            pool.submit(lab_work.fails, "ours").result()
        with pytest.raises(RuntimeError, match="nobody expects it"):
            pool.submit(lab_work.fails, "other").result()
        waiting = [pool.submit(time.sleep, 60) for _ in range(4)]
        while sum(future.running() for future in waiting) < 2:
            time.sleep(0.05)
        pool.shutdown(cancel_futures=True)
        assert sum(future.cancelled() for future in waiting) == 2


@dask
@pytest.mark.slow
def test_workers_that_cannot_take_part_are_refused(
    pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # /proc/self/cwd is where each process is: a folder of that name is not shared.
    monkeypatch.chdir(tmp_path)
    said = "the worker tcp://.* cannot see what was written to /proc/self/cwd/run: expected"
    with pytest.raises(SoftmapError, match=said):
        Engine(1, pair).check(Path("/proc/self/cwd/run"), lambda _: None)
    assert not (tmp_path / "run" / FOLDER).exists()
    real = remote.versions()
    monkeypatch.setattr(remote, "versions", lambda: {"softmap": "9.9", "torch": real["torch"]})
    said = f"has softmap {real['softmap']}, expected softmap 9.9 .and so 1 more."
    with pytest.raises(SoftmapError, match=said):
        Engine(1, pair).check(tmp_path, lambda _: None)


@dask
@pytest.mark.slow
def test_gpus_are_places_where_workers_announce_them_and_a_scheduler_may_go(tmp_path: Path) -> None:
    from distributed import LocalCluster

    gpus = functools.partial(
        LocalCluster, n_workers=1, threads_per_worker=4, dashboard_address=":0", protocol="tcp"
    )
    with contextlib.ExitStack() as stack:
        local = gpus(resources={"GPU": 2}, processes=False)
        stack.callback(local.close)
        found = stack.enter_context(connected(local.scheduler_address))
        assert found is not None and found.has_gpus()
        assert found.slots(gpus=True) == 2 and found.slots(gpus=False) == 4
        few = dataclasses.replace(found, most=3)
        assert few.slots(gpus=True) == 2 and few.slots(gpus=False) == 3
        pool = found.pool(tmp_path, None, lambda _: None)
        future = pool.submit(time.sleep, 600)
        threading.Timer(0.5, local.close).start()
        with pytest.raises(SoftmapError, match="the scheduler does not answer any more"):
            future.result(timeout=120)
        with pytest.raises(SoftmapError, match="the scheduler does not answer any more"):
            pool.submit(time.sleep, 1).result(timeout=120)
        pool.shutdown(cancel_futures=True)


def test_calls_of_a_worker_have_different_gpus() -> None:
    first, second = remote._free(), remote._free()
    assert (first, second) == (0, 1)
    remote._gpus.discard(first)
    assert remote._free() == 0
    remote._gpus.clear()
