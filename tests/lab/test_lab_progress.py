"""What is shown: lines, a table, or nothing; and how the time left is reckoned."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from softmap.lab import progress
from softmap.lab.progress import Display, Lines, LiveTable, duration


class Clock:
    """Time that passes by hand."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def step(display: Display, number: int, speed: float = 100.0) -> None:
    display.step("diff", 0, {"step": number, "loss": 2.5, "tokens_per_second": speed})


def begun(display: Display) -> Display:
    display.plan({"transformer++": 2, "diff": 2}, steps=40, batch_tokens=50)
    display.start("diff", 0)
    return display


def test_time_left_is_that_of_all_trials_at_the_speed_so_far(clock: Clock) -> None:
    display = begun(Display())
    assert display.left is None
    step(display, 10)  # the first report is warm-up
    clock.now = 5.0
    step(display, 20)  # 10 steps in 5 s, 20 + 3 * 40 still to go
    assert display.left == pytest.approx(140 * 0.5)
    assert display.trial_left(display.rows["diff"].running[0]) == 20 * 50 / 100
    display.finish("diff", 0, 2.0)
    display.finish("transformer++", 0, 2.0, skipped=True)
    assert display.left == pytest.approx(80 * 0.5)


def test_trials_at_once_share_a_row_and_the_time_left(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    display = LiveTable(console)
    begun(display).start("diff", 1)
    for clock.now, steps in ((1.0, 10), (11.0, 20)):
        for seed in (0, 1):
            display.step("diff", seed, {"step": steps + seed, "loss": 2.5, "tokens_per_second": 50})
    # 20 of 160 steps in twice 10 s, beside those of warm-up; two at a time.
    assert display.left == pytest.approx((160 - 20 - 21) * 1.0 / 2)
    console.print(display.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (row,) = (line.split() for line in text.splitlines() if line.startswith("diff"))
    assert row[1:] == ["0", "1", "(0/2)", "20", "21/40", "2.500", "2.500", "100", "0:20"]
    display.drop("diff", 1)  # its process died: all of it is to be done again
    assert display.left == pytest.approx(160 - 20)
    display.finish("diff", 0, float("nan"))
    assert display._cells(display.rows["diff"])[-1] == "diverged"


def test_lines_come_every_ten_seconds_and_at_both_ends(clock: Clock) -> None:
    stream = io.StringIO()
    display = begun(Lines(stream))
    for second in range(1, 25):
        clock.now = second
        step(display, second)
    display.finish("diff", 0, 2.0)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("diff seed 0: step 10/40  loss 2.500  100 tokens/s  left 0:15")
    assert lines[-1] == "diff seed 0: finished, held-out loss 2.0000"


def test_ci_gets_two_lines_a_trial(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    display = progress.choose()
    assert isinstance(display, Lines)
    display._stream = stream = io.StringIO()
    begun(display)
    clock.now = 1000.0
    step(display, 20)
    display.finish("diff", 0, 2.0)
    assert len(stream.getvalue().splitlines()) == 2


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress.choose(), LiveTable)


def test_the_table_says_where_each_variant_stands(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    display = LiveTable(console)
    display.preparing("reading", 50, 100)
    assert display.render() == "reading 50 %"
    begun(display)
    step(display, 10, speed=1234.0)
    display.finish("transformer++", 1, 1.98768)
    console.print(display.render())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["diff"] == ["0", "(0/2)", "10/40", "2.500", "1,234", "0:01"]
    assert rows["transformer++"] == ["1", "(1/2)", "40/40", "1.9877"]


def test_durations() -> None:
    assert [duration(s) for s in (None, 7.4, 187, 3765)] == ["-", "0:07", "3:07", "1:02:45"]
