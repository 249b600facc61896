"""The clock, on a CPU and with a GPU that only writes down what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from softmap.bench import clock, stats
from softmap.bench.clock import Clock
from softmap.bench.failure import is_out_of_memory, size, tried_bytes


def test_only_the_call_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 13.0])
    order: list[str] = []
    monkeypatch.setattr(clock.time, "perf_counter", lambda: order.append("clock") or next(now))
    seconds = Clock(torch.device("cpu")).seconds(
        lambda given: order.append(f"run {given}"), lambda: order.append("prepare") or "it"
    )
    assert seconds == 3.0 and order == ["prepare", "clock", "run it", "clock"]


class FakeGpu:
    """Stands for ``torch`` where the clock uses it; an event is the place in the queue."""

    int8 = torch.int8

    def __init__(self) -> None:
        self.queue: list[str] = []
        events: Any = lambda enable_timing: SimpleNamespace(  # noqa: E731
            record=lambda: self.queue.append("event"), elapsed_time=lambda end: 2.5
        )
        self.cuda = SimpleNamespace(
            Event=events, synchronize=lambda *device: self.queue.append("wait")
        )

    def empty(self, count: int, **given: Any) -> Any:
        assert count > 50 << 20  # more than the cache of an H100
        return SimpleNamespace(zero_=lambda: self.queue.append("flush"))


def test_on_a_gpu_the_cache_is_flushed_and_events_enclose_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu()
    monkeypatch.setattr(clock, "torch", gpu)
    found = Clock(torch.device("cuda")).seconds(
        lambda given: gpu.queue.append("run"), lambda: gpu.queue.append("prepare")
    )
    assert found == 0.0025  # events tell milliseconds
    assert gpu.queue == ["prepare", "wait", "flush", "event", "run", "event", "wait"]


def test_ratios_are_taken_within_rounds() -> None:
    found = stats.ratios([2.0, 40.0, 6.0], [1.0, 20.0, 2.0])
    assert found["median"] == 2.0 and found["count"] == 3
    fewer = stats.ratios([2.0, 40.0, 6.0], [1.0, 20.0])  # who left the rounds earlier
    assert fewer["count"] == 2


@pytest.mark.parametrize(
    ("error", "full", "tried"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB."), True, 3 << 29),
        (RuntimeError("CUDA error: out of memory"), True, None),
        (RuntimeError("shapes differ"), False, None),
        (ValueError("out of memory of names"), False, None),
    ],
)
def test_out_of_memory(error: Exception, full: bool, tried: int | None) -> None:
    assert is_out_of_memory(error) is full and tried_bytes(error) == tried


def test_sizes_for_people() -> None:
    assert [size(n) for n in (12, 4000, 2.5e6, 1.6e10)] == ["12 B", "4 kB", "2.5 MB", "16 GB"]
