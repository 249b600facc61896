"""A sweep: the runs of several sizes as losses over parameters, tokens, runs and windows.

Shape letters: R runs of a variant at one size, N budgets, W held-out windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from softmap.errors import SoftmapError
from softmap.report.load import FinishedTrial, Run, load
from softmap.report.stats import Array
from softmap.report.together import check_comparable
from softmap.report.words import listed, si

SIZES, BUDGETS = 3, 3  #: that a law of five numbers needs at least


@dataclass(frozen=True)
class SizeCell:
    """A variant at one size: ``losses_RNW`` are means over the positions of each window."""

    parameters: int
    tokens_N: Array
    losses_RNW: Array
    flops: float  #: of a token, forward and backward
    speed: float  #: tokens a second

    @property
    def runs(self) -> int:
        """The number of runs, one a seed."""
        return len(self.losses_RNW)

    @property
    def residuals_RN(self) -> Array:
        """The residuals of each run about the mean of all."""
        means_RN = self.losses_RNW.mean(axis=2)
        return np.asarray(means_RN - means_RN.mean(axis=0))


@dataclass(frozen=True)
class Sweep:
    """The cells of each variant, the smallest first, the control first of all.

    Attributes:
        left_out: variants that have too few sizes for a law.
        names: the runs.
    """

    control: str
    cells: dict[str, list[SizeCell]]
    left_out: list[str]
    names: list[str]
    diverged: int = 0

    @property
    def df(self) -> int:
        """Further runs beside the first of each cell: degrees of freedom of the spread."""
        return sum(cell.runs - 1 for cells in self.cells.values() for cell in cells)

    def largest(self) -> SizeCell:
        """Returns the control's cell of the largest size."""
        return self.cells[self.control][-1]


def read(directories: Sequence[Path]) -> Sweep:
    """Returns the sweep of finished runs, one folder a size.

    Raises ``SoftmapError`` for runs of different text, tokenizer, windows or control, two of one
    size, and for fewer than three sizes, three budgets, or one repeated run a size.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise SoftmapError("scale: expected different runs, found one twice")
    runs = [load(directory) for directory in directories]
    for run in runs[1:]:
        check_comparable(runs[0], run)
        if run.control != runs[0].control:
            raise SoftmapError(
                f"{run.directory}: expected the control {runs[0].control} of "
                f"{runs[0].directory}, found {run.control}"
            )
    return sweep(runs)


def sweep(runs: Sequence[Run]) -> Sweep:
    """Returns the sweep of runs that are loaded already."""
    control = runs[0].control
    labels = list(dict.fromkeys(label for run in runs for label in run.labels))
    found = {
        label: sorted(
            (_cell(list(run.trials[label].values())) for run in runs if label in run.trials),
            key=lambda cell: cell.parameters,
        )
        for label in labels
    }
    kept = {label: cells for label, cells in found.items() if len(cells) >= SIZES}
    made = Sweep(
        control, kept, [label for label in labels if label not in kept],
        [run.directory.name for run in runs],
        sum(len(seeds) for run in runs for seeds in run.diverged.values()),
    )  # fmt: skip
    _check(made, found.get(control, []))
    return made


def _check(made: Sweep, cells: list[SizeCell]) -> None:
    """Raise ``SoftmapError`` for a sweep that determines no law, or no error of one."""
    sizes = [cell.parameters for cell in cells]
    apart = sum(b > 1.1 * a for a, b in zip([0, *sizes], sizes, strict=False))
    if apart < SIZES or apart < len(sizes):
        found = listed([si(size) for size in sizes]) or "none"
        raise SoftmapError(
            f"scale: expected finished runs of the control {made.control} at {SIZES} sizes or "
            f"more, each 10 % above the one before, found parameters {found}"
        )
    budgets = min(len(cell.tokens_N) for cell in cells)
    if budgets < BUDGETS:
        raise SoftmapError(
            f"scale: expected {BUDGETS} budgets or more in each run, found {budgets} "
            "(training.budgets with schedule wsd-s gives them at no extra cost)"
        )
    if made.df < len(sizes):
        raise SoftmapError(
            "scale: expected runs of several seeds, one repeated at every size at least, found "
            f"{made.df} in {len(sizes)} sizes (seeds: 2)"
        )


def _cell(trials: list[FinishedTrial]) -> SizeCell:
    first = trials[0].result
    speeds = [trial.result["tokens_per_second"] for trial in trials]
    return SizeCell(
        int(first["parameters"]),
        np.array([budget.tokens for budget in trials[0].budgets], float),
        np.array([[b.losses_WT.mean(axis=1) for b in trial.budgets] for trial in trials]),
        float(first["flops_per_token"]),
        float(np.median(speeds)),
    )
