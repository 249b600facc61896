"""Nothing that happens once is inside a timed step, and the warm-up leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from train_stub import BATCH, CONTEXT, Stub, batches, same, weights

from softmap.train import TrainingOptions, train
from softmap.train import loop as loops

OPTIONS = TrainingOptions(
    steps=6, batch_size=BATCH, context=CONTEXT, peak_lr=1e-2, micro_batch_size=3
)


class Clock:
    """A clock that only the one-off work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Building(Stub):
    """Builds something the first time that it sees a shape, in training and with a gradient."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.built = clock, set()
        self.register_buffer("seen", torch.zeros(()))
        self.noise = nn.Dropout(0.5)

    def forward(self, input_ids, labels, shift_labels=None):
        shape = (tuple(input_ids.shape), self.training, torch.is_grad_enabled())
        if shape not in self.built:
            self.built.add(shape)
            self.clock.now += 35.0
        self.seen += 1
        return super().forward(input_ids, labels, shift_labels)


def test_one_off_work_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(loops.time, "perf_counter", clock)
    state = train(Building(clock), batches, OPTIONS, tmp_path)
    assert clock.now == 2 * 35.0  # micro-batches of 3 and of 1
    assert state.seconds == 0.0


def test_the_warm_up_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Building(Clock())
    train(model, batches, OPTIONS, tmp_path / "warm")
    monkeypatch.setattr(loops, "warm_up", lambda *_: None)
    cold = Building(Clock())
    train(cold, batches, OPTIONS, tmp_path / "cold")
    assert same(weights(model), weights(cold))  # buffers, and what dropout drew, among them
