"""The progress of a run: a live table on a terminal, otherwise plain lines.

``Display`` shows nothing (for tests and libraries); ``choose`` picks the one for a terminal, for a
log file (a line every ten seconds), or for CI (a line when a trial starts and ends).
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

OnStep = Callable[[Mapping[str, float]], Any]  #: called with the logged metrics of a step


@dataclass
class Running:
    """The state of a running trial."""

    step: int = 0
    loss: float | None = None
    speed: float | None = None
    mfu: float | None = None  #: model FLOPs utilisation, where the device's peak is known
    clock: float = field(default_factory=lambda: time.monotonic())  #: time of its last report


@dataclass
class ProgressRow:
    """The state of a variant: its running seeds and its results."""

    label: str
    running: dict[int, Running] = field(default_factory=dict)
    seed: int | None = None  #: the one that finished last
    trials: int = 1
    done: int = 0  #: the number of finished trials
    heldout: float | None = None


class Display:
    """Follows a run without showing anything; the base class of the displays."""

    def __init__(self) -> None:
        self.rows: dict[str, ProgressRow] = {}
        self.steps = self._steps_left = self._steps_done = 0
        self.batch_tokens = 1
        self._seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def note(self, text: str) -> None:
        """Show a sentence that stays on the screen."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Show the progress of preparing the data, in bytes of text."""

    def plan(self, trials: Mapping[str, int], steps: int, batch_tokens: int) -> None:
        """Set what will run: the number of trials of each label, and their steps."""
        self.rows = {label: ProgressRow(label, trials=number) for label, number in trials.items()}
        self.steps, self.batch_tokens = steps, batch_tokens
        self._steps_left = sum(trials.values()) * steps

    def more(self, trials: Mapping[str, int]) -> None:
        """Add trials to those of each label."""
        for label, number in trials.items():
            self.rows.setdefault(label, ProgressRow(label, trials=0)).trials += number
            self._steps_left += number * self.steps

    def start(self, label: str, seed: int) -> None:
        """Show that a trial begins, or continues."""
        self.drop(label, seed)
        self.rows[label].running[seed] = Running()

    def drop(self, label: str, seed: int) -> None:
        """Show that a trial has stopped; its steps will be repeated."""
        left = self.rows[label].running.pop(seed, Running())
        self._steps_left += left.step

    def step(self, label: str, seed: int, metrics: Mapping[str, float]) -> None:
        """Show a step of a running trial; ``metrics`` as ``softmap.train`` gives them."""
        mine = self.rows[label].running[seed]
        step, now = int(metrics["step"]), time.monotonic()
        # The first report covers warm-up, and after a resume the steps of an earlier session.
        if mine.step:
            self._seconds += now - mine.clock
            self._steps_done += step - mine.step
        self._steps_left -= step - mine.step
        mine.step, mine.clock = step, now
        mine.loss, mine.speed = metrics["loss"], metrics.get("tokens_per_second")
        mine.mfu = metrics.get("mfu")

    def finish(self, label: str, seed: int, heldout: float, *, skipped: bool = False) -> None:
        """Show that a trial ended with this held-out loss, NaN where the training diverged.

        Args:
            skipped: whether it had ended in an earlier call.
        """
        self.drop(label, seed)
        self._steps_left -= self.steps
        row = self.rows[label]
        row.seed, row.heldout, row.done = seed, heldout, row.done + 1

    def trial_left(self, trial: Running) -> float | None:
        """Returns the seconds that a running trial still needs."""
        if not trial.speed:
            return None
        return (self.steps - trial.step) * self.batch_tokens / trial.speed

    @property
    def left(self) -> float | None:
        """The seconds that the whole run still needs.

        They assume the speed so far and the present number of trials at once.
        """
        if not self._steps_done:
            return None
        running = [trial for row in self.rows.values() for trial in row.running.values()]
        whole = max(self._steps_left, 0) * self._seconds / self._steps_done / max(1, len(running))
        return max([whole, *(self.trial_left(trial) or 0.0 for trial in running)])


class Lines(Display):
    """Plain lines when a trial starts or ends, and between these every ``interval`` seconds.

    Trials that run at once are reported in turn.
    """

    def __init__(self, stream: TextIO | None = None, interval: float | None = 10.0) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._interval = interval
        self._shown: dict[tuple[str, int], float] = {}
        self._stage = ""

    def note(self, text: str) -> None:
        """Print the text on its own line."""
        print(text, file=self._stream, flush=True)

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Print a line where a new stage begins."""
        if stage != self._stage:
            self._stage = stage
            self.note(f"{stage} ...")

    def start(self, label: str, seed: int) -> None:
        """Print that the trial begins."""
        super().start(label, seed)
        self._shown[label, seed] = time.monotonic()
        self.note(f"{label} seed {seed}: training {self.steps} steps")

    def step(self, label: str, seed: int, metrics: Mapping[str, float]) -> None:
        """Print the state of the trial, if enough time has passed."""
        super().step(label, seed, metrics)
        now, trial = time.monotonic(), self.rows[label].running[seed]
        running = sum(len(row.running) for row in self.rows.values())
        if self._interval is None or now - self._shown[label, seed] < self._interval * running:
            return
        self._shown[label, seed] = now
        self.note(
            f"{label} seed {seed}: step {trial.step}/{self.steps}  loss {trial.loss:.3f}  "
            f"{_number(trial.speed)} tokens/s{_used(trial)}  "
            f"left {duration(self.trial_left(trial))} (all {duration(self.left)})"
        )

    def finish(self, label: str, seed: int, heldout: float, *, skipped: bool = False) -> None:
        """Print the outcome of the trial."""
        super().finish(label, seed, heldout, skipped=skipped)
        state = "already finished" if skipped else "finished"
        self.note(f"{label} seed {seed}: {state}, {_outcome(heldout)}")


class LiveTable(Display):
    """A table that is redrawn in place, for a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True)
        self._stage = ""
        self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        """Print the text above the table."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Show the stage and its progress."""
        share = f" {100 * done / total:.0f} %" if total else f" {done / 1e6:.1f} MB"
        self._stage = stage + share

    def render(self) -> Table | str:
        """Returns the present table, or the stage of the preparation."""
        if not self.rows:
            return self._stage
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("variant", "seed", "step", "loss", "tokens/s", "left", "held-out loss"):
            table.add_column(name, justify="left" if name == "variant" else "right")
        for row in self.rows.values():
            table.add_row(*self._cells(row), style="bold" if row.running else None)
        table.caption = f"total time left {duration(self.left)}"
        table.caption_justify = "left"
        return table

    def _cells(self, row: ProgressRow) -> list[str]:
        trials, done = list(row.running.values()), f" ({row.done}/{row.trials})"
        if not trials and not row.done:
            return [row.label, "", "waiting", "", "", "", ""]
        seeds = " ".join(map(str, row.running)) or f"{row.seed}"
        steps = " ".join(f"{trial.step}" for trial in trials) or f"{self.steps}"
        losses = [f"{trial.loss:.3f}" for trial in trials if trial.loss is not None]
        speeds = [trial.speed for trial in trials if trial.speed is not None]
        left = [seconds for seconds in map(self.trial_left, trials) if seconds is not None]
        return [
            row.label,
            seeds + (done if row.trials > 1 else ""),
            f"{steps}/{self.steps}",
            " ".join(losses),
            _number(sum(speeds)) + _used(trials[0]) if speeds else "",
            duration(max(left)) if left else "",
            "" if row.heldout is None else _loss(row.heldout),
        ]


def choose() -> Display:
    """Returns the display for a terminal or for a file, whichever standard error is."""
    if os.environ.get("CI"):
        return Lines(interval=None)
    return LiveTable() if sys.stderr.isatty() else Lines()


def duration(seconds: float | None) -> str:
    """Returns ``3:07``, ``1:02:45``, or ``-`` for an unknown time."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _outcome(heldout: float) -> str:
    return "it diverged" if math.isnan(heldout) else f"held-out loss {heldout:.4f}"


def _used(trial: Running) -> str:
    """Returns a trial's model FLOPs utilisation in words."""
    return "" if trial.mfu is None else f" ({trial.mfu:.0%} MFU)"


def _loss(heldout: float) -> str:
    return "diverged" if math.isnan(heldout) else f"{heldout:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
