from __future__ import annotations

import importlib.util
import json
import sqlite3
import sys
import warnings

import pytest
from train_stub import BATCH, CONTEXT, Stub, batches

from softmap.errors import SoftmapError
from softmap.train import TrainingOptions, open_tracker, trackers, train
from softmap.train.jsonl import JsonlTracker


def told(name, folder, steps=(3, 4)):
    """What a tracker is told, opened anew for each step, as by a training that goes on."""
    for step in steps:
        tracker = open_tracker(name, folder=folder, run="diff seed 0")
        tracker.log({"segment": 0, "step": step, "loss": 1.5})
        tracker.close()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Nobody is reached, and all is written below ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "tracker")
        yield tmp_path


@pytest.mark.slow
def test_tensorboard_itself(offline):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told("tensorboard", offline)
    events = EventAccumulator(str(offline / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(3, 1.5), (4, 1.5)]


@pytest.mark.slow
def test_wandb_itself(offline):
    pytest.importorskip("wandb")
    told("wandb", offline)
    files = list(offline.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1  # one run, though opened twice
    assert any(b"loss" in file.read_bytes() for file in files)


@pytest.mark.slow
def test_trackio_itself(offline):
    pytest.importorskip("trackio")
    told("trackio", offline)
    with sqlite3.connect(offline / "trackio" / "softmap.db") as base:
        rows = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
    rows = [(name, step, json.loads(values)) for name, step, values in rows]
    kept = [(name, step, values["loss"]) for name, step, values in rows if "loss" in values]
    assert [one[1:] for one in kept] == [(3, 1.5), (4, 1.5)]
    assert len({name for name, *_ in kept}) == 1


@pytest.mark.slow
def test_mlflow_itself(offline):
    client = pytest.importorskip("mlflow").MlflowClient()
    told("mlflow", offline)
    (run,) = client.search_runs([client.get_experiment_by_name("softmap").experiment_id])
    assert run.info.run_name == "diff seed 0" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(3, 1.5), (4, 1.5)]


class Fake:
    """A client that notes its calls, and fails in ``method``."""

    __name__ = "wandb"

    def __init__(self, method=None):
        self.method, self.calls = method, []

    def __getattr__(self, name):
        def call(*given, **named):
            self.calls.append((name, *given))
            if name == self.method:
                raise ConnectionError("the service is gone")
            return self

        return call


@pytest.mark.parametrize("method", [None, "init", "log", "finish"])
def test_a_tracker_is_told_each_logged_step_and_stops_no_training(tmp_path, monkeypatch, method):
    client = Fake(method)
    monkeypatch.setitem(sys.modules, "wandb", client)
    monkeypatch.setattr(trackers, "check_trackers", lambda names: None)
    options = TrainingOptions(
        steps=3, batch_size=BATCH, context=CONTEXT, peak_lr=0.01, log_every=1, trackers=["wandb"]
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = train(Stub(), batches, options, tmp_path)
    said = [str(one.message) for one in caught if "tracker" in str(one.message)]
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert state.finished and [line.pop("step") for line in lines] == [1, 2, 3]
    assert said == [
        "tracker wandb: ConnectionError: the service is gone; it gets no more metrics, the "
        "training continues"
    ] * (method is not None)
    expected = [("init",), *(("log", line) for line in lines), ("finish",)]
    assert client.calls == expected[: {"init": 1, "log": 2}.get(method)]


def test_a_missing_package_and_an_unknown_name_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SoftmapError, match=r"tracker mlflow: .*pip install mlflow"):
        open_tracker("mlflow", folder=tmp_path, run="diff")
    with pytest.raises(SoftmapError, match=r"trackers\[0\]: .*did you mean 'wandb'"):
        TrainingOptions(steps=3, batch_size=1, context=1, peak_lr=1.0, trackers=("wandbb",))


def write_log(path, steps):
    """A log of these steps, and its sum after each."""
    log, sums = JsonlTracker(path, (0, 0)), []
    for step in steps:
        log.log({"segment": 0, "step": step, "loss": 1.25})
        sums.append(log.sum)
    log.close()
    return sums


def test_a_log_goes_on_where_the_checkpoint_knows_it(tmp_path):
    path = tmp_path / "train.jsonl"
    sums = write_log(path, [1, 2, 3])
    with path.open("ab") as file:
        file.write(b'{"segment": 0, "st')  # torn by a kill
    log = JsonlTracker(path, (0, 2), sums[1])
    assert log.sum == sums[1]
    log.log({"segment": 0, "step": 3, "loss": 1.25})
    log.close()
    assert log.sum == sums[2] and path.stat().st_size == sums[2][0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"1.25", b"1.26", 1),
        lambda data: data[:20],
        lambda data: b"",
        lambda data: b"\xff" * len(data),
    ],
)
def test_a_damaged_log_is_named(tmp_path, damage):
    path = tmp_path / "train.jsonl"
    sums = write_log(path, [1, 2])
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(SoftmapError, match=r"train\.jsonl: expected the \d+ bytes"):
        JsonlTracker(path, (0, 2), sums[1])
    assert path.read_bytes() == before


def test_an_older_checkpoint_knows_no_sum(tmp_path):
    path = tmp_path / "train.jsonl"
    write_log(path, [1, 2, 3])
    path.write_bytes(path.read_bytes() + b"\xff\xfe{\n")
    JsonlTracker(path, (0, 2)).close()
    assert path.read_text().count("\n") == 2
