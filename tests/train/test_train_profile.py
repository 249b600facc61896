"""Model FLOPs utilisation in the log, and traces of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_stub import BATCH, CONTEXT, Stub, batches

from softmap.train import TrainingOptions, train
from softmap.train.profile import profiled

OPTIONS = TrainingOptions(
    steps=6, batch_size=BATCH, context=CONTEXT, peak_lr=0.01, schedule="cosine", log_every=2
)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_utilisation_where_the_peak_is_known(tmp_path: Path) -> None:
    seen: list[dict] = []
    train(Stub(), batches, OPTIONS, tmp_path / "one", full_speed=1e6, on_step=seen.append)
    logged = lines(tmp_path / "one")
    assert len(logged) == 3 and logged == seen
    for line in logged:
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] / 1e6)
    train(Stub(), batches, OPTIONS, tmp_path / "two")
    assert all("mfu" not in line for line in lines(tmp_path / "two"))


def test_a_trace_of_the_second_to_the_fourth_step(tmp_path: Path) -> None:
    train(Stub(), batches, OPTIONS, tmp_path, profile=tmp_path / "profile")
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank0.json"]
    events = json.loads((tmp_path / "profile" / "rank0.json").read_text())["traceEvents"]
    steps = {e["name"] for e in events if str(e.get("name", "")).startswith("ProfilerStep#")}
    assert steps == {"ProfilerStep#1", "ProfilerStep#2", "ProfilerStep#3"}
    assert any(e.get("name") == "aten::mm" for e in events)


def test_nothing_when_not_asked_for() -> None:
    with profiled(None, 0) as step:
        assert step is None
