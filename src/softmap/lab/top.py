"""``softmap top``: the state of the trainings in a run's folder, from any machine that sees it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from softmap.errors import SoftmapError
from softmap.lab.names import check_path, no_run

EVERY = 1.0  #: seconds between two updates
STATES = ("training", "waiting", "stopped", "failed", "done")  #: in the order of the table


@dataclass
class Top:
    """Show the state of a run's trainings until Ctrl-C: which wait, train, ended, failed.

    It reads the run's folder alone, so it works on any machine that sees it, even long afterwards.

    For example:
      softmap top runs/demo
      softmap top runs/demo --once
    """

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """The folder of a comparison, or of what learn, graft or claims run have trained."""
    once: bool = False
    """Show the state once; this is the default where the output is no terminal."""

    def run(self, argv: Sequence[str]) -> None:
        """Print the table once, or redraw it until Ctrl-C."""
        from rich.console import Console
        from rich.live import Live

        check_path("the run's folder", self.run_folder)
        rows = look(self.run_folder)
        if self.once or not sys.stdout.isatty():
            Console(width=None if sys.stdout.isatty() else 120).print(table(rows))
            return
        with contextlib.suppress(KeyboardInterrupt), Live(table(rows), auto_refresh=False) as live:
            while True:
                time.sleep(EVERY)
                live.update(table(look(self.run_folder)), refresh=True)


@dataclass(frozen=True)
class TopRow:
    """The state of one training.

    Attributes:
        state: one of ``STATES``.
        worker: the process that works at it.
        log: the last line of its log.
        silent: seconds since that line.
        why: why it failed.
    """

    label: str
    seed: int
    state: str
    steps: int
    worker: str | None
    log: dict[str, Any]
    silent: float | None
    why: str | None


def look(folder: Path) -> list[TopRow]:
    """Returns the trainings of a folder, running ones first.

    Raises ``SoftmapError`` for a folder without any.
    """
    from softmap.lab.roster import FILE, read

    entries = read(folder)
    if not entries:
        if folder.is_dir():
            raise SoftmapError(f"{folder}: expected trainings in it ({FILE}), found none")
        raise no_run(folder)
    rows = [_row(folder, entry) for entry in entries]
    return sorted(rows, key=lambda row: STATES.index(row.state))


def _row(folder: Path, entry: Any) -> TopRow:
    from softmap.lab.roster import holder, last_logged

    place = folder / entry["folder"]
    log, worker = place / "train.jsonl", None if entry["ended"] else holder(place)
    silent = None
    with contextlib.suppress(OSError):
        silent = max(0.0, time.time() - log.stat().st_mtime)
    if entry["ended"]:
        state = "done"
    elif worker:
        state = "training"
    elif entry["failed"]:
        state = "failed"
    else:
        state = "waiting" if silent is None else "stopped"
    return TopRow(
        entry["label"], entry["seed"], state, entry["steps"], worker, last_logged(log) or {},
        silent, entry["failed"],
    )  # fmt: skip


def table(rows: Sequence[TopRow]) -> Any:
    """Returns a table of the rows, with the number in each state."""
    from rich.table import Table

    found = Table(box=None, pad_edge=False, header_style="dim", caption_justify="left")
    for name in ("training", "seed", "state", "step", "loss", "tokens/s", "last heard", "worker"):
        left = name in ("training", "state", "worker")
        found.add_column(name, justify="left" if left else "right")
    for row in rows:
        found.add_row(*_cells(row))
    counts = Counter(row.state for row in rows)
    found.caption = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return found


def _cells(row: TopRow) -> list[str]:
    from softmap.lab.progress import duration

    step, loss, speed = (row.log.get(key) for key in ("step", "loss", "tokens_per_second"))
    return [
        row.label,
        f"{row.seed}",
        row.state,
        "" if step is None else f"{step}/{row.steps}",
        "" if loss is None else f"{loss:.3f}",
        "" if speed is None or row.state != "training" else f"{speed:,.0f}",
        "" if row.silent is None or row.state == "done" else f"{duration(row.silent)} ago",
        row.worker or row.why or "",
    ]
