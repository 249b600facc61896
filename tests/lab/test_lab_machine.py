"""Peak memory sees what training takes and nothing else; speeds leave the warm-up out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softmap.lab import machine, peak_memory
from softmap.lab.trial import logged_speed

MIB = 1 << 20


def touch(mib: int) -> int:
    return int(np.ones(mib * MIB, np.uint8).sum())


@pytest.fixture(params=["high water", "sampler"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sampler":
        monkeypatch.setattr(peak_memory._HighWater, "works", classmethod(lambda _: False))
    elif not peak_memory._HighWater.works():
        pytest.skip("this kernel does not reset the high-water mark")
    return str(request.param)


def test_the_peak_is_what_was_needed_at_once(source: str) -> None:
    touch(300)  # before: not counted
    with peak_memory.PeakMemory(torch.device("cpu")) as memory:
        held = np.ones(64 * MIB, np.uint8)
        memory.sample()
        touch(300)
        memory.forget()
        del held
        memory.sample()
    assert 60 * MIB < memory.peak < 150 * MIB


def test_speed_is_a_median_without_the_warm_up() -> None:
    log = [{"step": 10, "tokens_per_second": 1.0}, {"step": 20, "tokens_per_second": 1.0}]
    log += [{"step": 30 + n, "tokens_per_second": float(n)} for n in range(11)]
    assert logged_speed(log) == (5.0, [1.0, 9.0])


def test_speed_of_a_short_run_uses_what_there_is() -> None:
    assert logged_speed([{"step": 2, "tokens_per_second": 4.0}]) == (4.0, [4.0, 4.0])
    assert logged_speed([]) == (None, None)


def test_what_ran_is_named() -> None:
    facts = machine.device_facts(torch.device("cpu"))
    assert facts["kind"] == "cpu" and facts["name"] and facts["memory_bytes"] > MIB
    assert machine.versions()["torch"] == torch.__version__
