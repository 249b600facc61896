"""A run folder as plain data: every file checked once, here.

Whatever is wrong with a file (absent, truncated, of another shape, a key missing) becomes one
:class:`~softmap.errors.SoftmapError` that names the file; the rest of the package may trust it.

Shape letters: W held-out windows, T positions, L layers, H heads.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmap.errors import SoftmapError

Array = NDArray[np.floating[Any]]

RUN_KEYS = ("name", "control", "variants", "seeds")
RESULT_KEYS = (
    "variant",
    "seed",
    "peak_lr",
    "peak_lr_source",
    "parameters",
    "intermediate_size",
    "flops_per_token",
    "cache_bytes_per_token",
    "tokens_per_second",
    "tokens_per_second_range",
    "peak_memory_bytes",
    "train_seconds",
    "budgets",
)
BUDGET_KEYS = ("tokens", "seconds", "flops", "loss", "file")


@dataclass(frozen=True)
class Budget:
    """A decayed checkpoint: what it cost so far, and its loss on every held-out token."""

    tokens: int
    seconds: float
    flops: float
    loss: float
    losses_WT: Array


@dataclass(frozen=True)
class Trial:
    """One finished variant with one seed."""

    variant: str
    seed: int
    result: dict[str, Any]
    budgets: list[Budget]
    curve: list[dict[str, float]]
    maps_LHTT: Array | None


@dataclass(frozen=True)
class Run:
    """A run folder: its declaration (``run.json``) and the trials that have finished."""

    directory: Path
    info: dict[str, Any]
    trials: dict[str, dict[int, Trial]]

    @property
    def control(self) -> str:
        return str(self.info["control"])

    @property
    def labels(self) -> list[str]:
        """Every declared variant, the control first, otherwise in the recipe's order."""
        rest = [label for label in self.info["variants"] if label != self.control]
        return [self.control, *rest]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The declared (variant, seed) pairs that have not finished."""
        return [
            (label, seed)
            for label in self.labels
            for seed in self.info["seeds"]
            if seed not in self.trials.get(label, {})
        ]


def load(directory: Path) -> Run:
    """Read and check a run folder.

    Raises:
        SoftmapError: no ``run.json``, nothing finished yet, or a damaged file (named).
    """
    info = _json(directory / "run.json")
    _require(info, RUN_KEYS, directory / "run.json")
    trials: dict[str, dict[int, Trial]] = {}
    for path in sorted(directory.glob("variants/*/seed*/result.json")):
        trial = _trial(path)
        if trial.variant in info["variants"] or trial.variant == info["control"]:
            trials.setdefault(trial.variant, {})[trial.seed] = trial
    if not trials:
        raise SoftmapError(
            f"{directory}: nothing to report, expected at least one finished variant "
            "(variants/*/seed*/result.json), found none"
        )
    run = Run(directory, info, trials)
    _check_same_windows(run)
    return run


def _trial(path: Path) -> Trial:
    result = _json(path)
    _require(result, RESULT_KEYS, path)
    if not result["budgets"]:
        raise SoftmapError(f"{path}: expected at least one evaluated budget, found none")
    budgets = [_budget(entry, path) for entry in result["budgets"]]
    return Trial(
        variant=str(result["variant"]),
        seed=int(result["seed"]),
        result=result,
        budgets=sorted(budgets, key=lambda budget: budget.tokens),
        curve=_curve(path.parent / "train.jsonl"),
        maps_LHTT=_maps(path.parent / "maps.npz"),
    )


def _budget(entry: Any, path: Path) -> Budget:
    if not isinstance(entry, dict):
        raise SoftmapError(f"{path}: expected every budget to be an object, found {entry!r:.40}")
    _require(entry, BUDGET_KEYS, path)
    # The name alone: a result file must not be able to point outside its own folder.
    losses = _array(path.parent / Path(str(entry["file"])).name, "losses", dimensions=2)
    return Budget(
        tokens=int(entry["tokens"]),
        seconds=float(entry["seconds"]),
        flops=float(entry["flops"]),
        loss=float(losses.mean()),
        losses_WT=losses,
    )


def _curve(path: Path) -> list[dict[str, float]]:
    """The training log, one row per step; after a resume the later row of a step wins."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[int(row["step"])] = {key: float(row[key]) for key in ("tokens", "seconds", "loss")}
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # the run was killed while it wrote this line
                break
            raise SoftmapError(
                f"{path}: line {number} is not a training-log row: {error}"
            ) from None
    return [rows[step] for step in sorted(rows)]


def _maps(path: Path) -> Array | None:
    if not path.exists():
        return None
    maps = _array(path, "maps", dimensions=4)
    if maps.shape[2] != maps.shape[3]:
        raise SoftmapError(f"{path}: expected square maps (L, H, T, T), found {maps.shape}")
    return maps


def _array(path: Path, key: str, dimensions: int) -> Array:
    """One finite float64 array of an ``.npz`` file; never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = np.asarray(archive[key], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SoftmapError(f"{path}: expected an array {key!r}, found {_one_line(error)}") from None
    if array.ndim != dimensions or array.size == 0:
        raise SoftmapError(
            f"{path}: expected {key!r} with {dimensions} dimensions and at least one value, "
            f"found shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise SoftmapError(f"{path}: expected finite numbers in {key!r}, found NaN or infinity")
    return array


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SoftmapError(f"{path}: cannot read it: {error.strerror}") from None
    except ValueError as error:
        raise SoftmapError(f"{path}: expected JSON, found {_one_line(error)}") from None
    if not isinstance(value, dict):
        raise SoftmapError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _require(value: dict[str, Any], keys: tuple[str, ...], path: Path) -> None:
    absent = [key for key in keys if value.get(key) is None]
    if absent:
        raise SoftmapError(
            f"{path}: expected the keys {', '.join(keys)}, found no value for {', '.join(absent)}"
        )


def _check_same_windows(run: Run) -> None:
    """Pairing needs the same held-out windows and the same budgets in every trial."""
    trials = [trial for seeds in run.trials.values() for trial in seeds.values()]
    expected = _layout(trials[0])
    for trial in trials[1:]:
        if _layout(trial) != expected:
            raise SoftmapError(
                f"{run.directory}: {trial.variant} seed {trial.seed} has budgets and windows "
                f"{_layout(trial)}, expected those of {trials[0].variant}: {expected}"
            )


def _layout(trial: Trial) -> list[tuple[int, tuple[int, ...]]]:
    return [(budget.tokens, budget.losses_WT.shape) for budget in trial.budgets]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
