from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from softmap.errors import SoftmapError
from softmap.train import open_tracker


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
