"""What a person sees while a run goes on: a live table, or plain lines where there is no terminal.

``Display`` says nothing (tests, libraries); ``choose`` picks the one for a terminal, for a log
file (a line every ten seconds), or for CI (a line when a trial starts and ends).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table


@dataclass
class Row:
    """Where one variant stands."""

    label: str
    seed: int | None = None
    done: int = 0  #: trials
    step: int = 0
    loss: float | None = None
    speed: float | None = None
    heldout: float | None = None
    active: bool = False


class Display:
    """Follows a run and shows nothing; the base of those that do."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.steps = self.trials = self._steps_left = self._steps_done = 0
        self.batch_tokens = 1
        self._last_step = 0
        self._seconds = self._clock = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def note(self, text: str) -> None:
        """A sentence that stays on the screen."""

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        """Progress of the data, in bytes of text."""

    def plan(self, labels: list[str], seeds: int, steps: int, batch_tokens: int) -> None:
        """What will be run: each label with each seed for so many steps."""
        self.rows = {label: Row(label) for label in labels}
        self.steps, self.trials, self.batch_tokens = steps, seeds, batch_tokens
        self._steps_left = len(labels) * seeds * steps

    def start(self, label: str, seed: int) -> None:
        """A trial begins, or goes on."""
        for row in self.rows.values():
            row.active = False
        row = self.rows[label]
        row.seed, row.active, row.step, row.loss, row.speed = seed, True, 0, None, None
        self._last_step = 0
        self._clock = time.monotonic()

    def step(self, label: str, metrics: Mapping[str, float]) -> None:
        """A step of the running trial; ``metrics`` as ``softmap.train`` gives them."""
        row, step, now = self.rows[label], int(metrics["step"]), time.monotonic()
        # The first report covers warm-up, and after a resume the steps of an earlier session.
        if self._last_step:
            self._seconds += now - self._clock
            self._steps_done += step - self._last_step
        self._steps_left -= step - self._last_step
        self._last_step, self._clock = step, now
        row.step, row.loss = step, metrics["loss"]
        row.speed = metrics.get("tokens_per_second")

    def finish(self, label: str, seed: int, heldout: float, *, skipped: bool = False) -> None:
        """A trial ended with this held-out loss, or (``skipped``) had ended in an earlier call."""
        row = self.rows[label]
        self._steps_left -= self.steps - (0 if skipped else self._last_step)
        row.seed, row.active, row.step, row.heldout = seed, False, self.steps, heldout
        row.done += 1
        self._last_step = 0

    def row_left(self, row: Row) -> float | None:
        """Seconds that the running trial still needs."""
        if not row.active or not row.speed:
            return None
        return (self.steps - row.step) * self.batch_tokens / row.speed

    @property
    def left(self) -> float | None:
        """Seconds that the whole run still needs, at the speed so far."""
        if not self._steps_done:
            return None
        return max(self._steps_left, 0) * self._seconds / self._steps_done


class Lines(Display):
    """Plain lines: at the start and end of each trial, and every ``interval`` seconds between."""

    def __init__(self, stream: TextIO | None = None, interval: float | None = 10.0) -> None:
        super().__init__()
        self._stream = stream or sys.stderr
        self._interval = interval
        self._shown = time.monotonic()
        self._stage = ""

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        if stage != self._stage:
            self._stage = stage
            self.note(f"{stage} ...")

    def start(self, label: str, seed: int) -> None:
        super().start(label, seed)
        self.note(f"{label} seed {seed}: training {self.steps} steps")

    def step(self, label: str, metrics: Mapping[str, float]) -> None:
        super().step(label, metrics)
        now = time.monotonic()
        if self._interval is None or now - self._shown < self._interval:
            return
        self._shown = now
        row = self.rows[label]
        self.note(
            f"{label} seed {row.seed}: step {row.step}/{self.steps}  loss {row.loss:.3f}  "
            f"{_number(row.speed)} tokens/s  left {duration(self.row_left(row))} "
            f"(all {duration(self.left)})"
        )

    def finish(self, label: str, seed: int, heldout: float, *, skipped: bool = False) -> None:
        super().finish(label, seed, heldout, skipped=skipped)
        state = "was finished" if skipped else "finished"
        self.note(f"{label} seed {seed}: {state}, held-out loss {heldout:.4f}")


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
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def preparing(self, stage: str, done: int, total: int | None) -> None:
        share = f" {100 * done / total:.0f} %" if total else f" {done / 1e6:.1f} MB"
        self._stage = stage + share

    def render(self) -> Table | str:
        """The table as it stands, or the stage of the preparation."""
        if not self.rows:
            return self._stage
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("variant", "seed", "step", "loss", "tokens/s", "left", "held-out loss"):
            table.add_column(name, justify="left" if name == "variant" else "right")
        for row in self.rows.values():
            table.add_row(*self._cells(row), style="bold" if row.active else None)
        table.caption = f"total time left {duration(self.left)}"
        table.caption_justify = "left"
        return table

    def _cells(self, row: Row) -> list[str]:
        begun = row.active or row.done
        seeds = f"{row.seed}" if self.trials == 1 else f"{row.seed} ({row.done}/{self.trials})"
        return [
            row.label,
            seeds if begun else "",
            f"{row.step}/{self.steps}" if begun else "waiting",
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.speed is None else _number(row.speed),
            duration(self.row_left(row)) if row.active else "",
            "" if row.heldout is None else f"{row.heldout:.4f}",
        ]


def choose() -> Display:
    """The display for where standard error goes."""
    if os.environ.get("CI"):
        return Lines(interval=None)
    return LiveTable() if sys.stderr.isatty() else Lines()


def duration(seconds: float | None) -> str:
    """``3:07``, ``1:02:45``, or ``-`` when unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
