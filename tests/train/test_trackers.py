from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from softmap.errors import SoftmapError
from softmap.train import open_tracker
from softmap.train.trackers import JsonlTracker


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_metrics_reach_wandb_and_trackio(tmp_path, monkeypatch, name):
    calls = []
    fake = SimpleNamespace(
        init=lambda **kwargs: calls.append(kwargs),
        log=lambda metrics, step: calls.append((metrics, step)),
        finish=lambda: calls.append("finished"),
    )
    monkeypatch.setitem(sys.modules, name, fake)
    tracker = open_tracker(name, folder=tmp_path, run="diff")
    tracker.log({"step": 3, "loss": 1.5})
    tracker.close()
    expected = [{"project": "softmap", "name": "diff"}, ({"step": 3, "loss": 1.5}, 3), "finished"]
    assert calls == expected


def test_metrics_reach_tensorboard(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, *scalar):
            calls.append(scalar)

        def close(self):
            calls.append("closed")

    fake = SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    tracker = open_tracker("tensorboard", folder=tmp_path, run="diff")
    tracker.log({"step": 3, "loss": 1.5})
    tracker.close()
    assert calls == [str(tmp_path), ("step", 3, 3), ("loss", 1.5, 3), "closed"]


def test_a_missing_package_and_an_unknown_name_say_so(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("tensorboard", "wandb", "trackio"):
        with pytest.raises(SoftmapError, match=f"pip install {name}"):
            open_tracker(name, folder=tmp_path, run="diff")
    with pytest.raises(SoftmapError, match="did you mean 'wandb'"):
        open_tracker("wandbb", folder=tmp_path, run="diff")


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
