"""A run folder as plain data: every file checked once, here.

Whatever is wrong with a file (absent, truncated, of another shape, a key missing) becomes one
[`SoftmapError`][softmap.errors.SoftmapError] that names the file; the rest of the package may trust
it.

Shape letters: W held-out windows, T positions, L layers, H heads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from softmap.errors import SoftmapError, reason, shown
from softmap.fields import check
from softmap.files.sealed import parse_json, read_bytes, read_sealed, verify
from softmap.report.peaks import tried_peaks
from softmap.report.speed import read_speed, replace_speed
from softmap.report.stats import Array


class _Passage(TypedDict):
    tokens: list[str] | None
    text: str | None


class _Resolve(TypedDict):
    half_width: float
    first_seeds: dict[str, list[int]]


class _Time(TypedDict):
    seconds: float
    spent: float


class _RunFile(TypedDict):
    name: str
    control: str
    variants: list[str]
    seeds: list[int]
    seeds_by_variant: dict[str, list[int]] | None
    resolve: _Resolve | None
    time: _Time | None
    created: str | None
    softmap_version: str | None
    commit: str | None
    command: str | None
    recipe: str | None
    homes: dict[str, str] | None
    versions: dict | None
    device: dict | None
    data: dict | None
    model: dict | None
    training: dict | None
    settings: dict | None
    passage: _Passage | None
    spreads: dict[str, list[list[float]]] | None


class BudgetFile(TypedDict):
    """A ``budget-*.json``, and an entry of a result's ``budgets``."""

    tokens: int
    seconds: float
    flops: float
    loss: float
    file: str
    stderr: float | None
    spent: int | None  # tokens trained until then, including discarded decays and restarts


class _ResultFile(TypedDict):
    variant: str
    seed: int
    peak_lr: float
    peak_lr_source: str
    parameters: int
    intermediate_size: int
    flops_per_token: float
    cache_bytes_per_token: float
    tokens_per_second: float
    tokens_per_second_range: list[float]
    peak_memory_bytes: float
    train_seconds: float
    whole_seconds: float | None
    budgets: list[BudgetFile]
    parameters_non_embedding: int | None
    title: str | None
    paper: str | None
    source: str | None
    impl: str | None
    spec: str | None
    backbone: dict | None
    files: dict | None
    model: dict | None
    peak_of: str | None
    schedule: str | None
    mean_lr: float | None


class _Diverged(TypedDict):
    step: int
    reason: str


class _DivergedFile(TypedDict):
    variant: str
    seed: int
    diverged: _Diverged
    files: dict | None


class _Row(TypedDict):
    step: int
    tokens: float
    seconds: float
    loss: float


class _Suite(TypedDict):
    """A suite in ``answers.json``; [`softmap.report.questions`][] has the parts."""

    title: str
    asks: str
    how: str
    measures: list[dict]
    pictures: list[dict]
    answers: list[dict]


@dataclass(frozen=True)
class Budget:
    """A decayed checkpoint: what it cost so far, and its loss on every held-out token."""

    tokens: int
    seconds: float
    flops: float
    loss: float
    losses_WT: Array
    spent: int | None = None


@dataclass(frozen=True)
class FinishedTrial:
    """A finished variant with one seed."""

    variant: str
    seed: int
    result: dict[str, Any]
    budgets: list[Budget]
    curve: list[dict[str, float]]
    maps_LHTT: Array | None
    answers: dict[str, Any] = field(default_factory=dict)  #: by suite


@dataclass(frozen=True)
class Run:
    """A run folder: its ``run.json``, the trials that have finished, and all that were declared.

    ``diverged`` holds, by variant and seed, at which step a training diverged, and how; ``logs``
    the ``train.jsonl`` of everything that ended.
    """

    directory: Path
    info: dict[str, Any]
    trials: dict[str, dict[int, FinishedTrial]]
    declared: list[tuple[str, int]]
    diverged: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    logs: dict[tuple[str, int], Path] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """The label of the variant that all others are compared with."""
        return str(self.info["control"])

    @property
    def labels(self) -> list[str]:
        """Every declared variant, the control first, otherwise in the recipe's order."""
        rest = [label for label in self.info["variants"] if label != self.control]
        return [self.control, *rest]

    @property
    def plain_labels(self) -> list[str]:
        """The labels without the run that they come from, where several share a page."""
        plain = self.info.get("plain_labels") or {}
        return [str(plain.get(label, label)) for label in self.labels]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """The declared (variant, seed) pairs that have neither finished nor diverged."""
        ended = {(l, s) for found in (self.trials, self.diverged) for l in found for s in found[l]}
        return [pair for pair in self.declared if pair not in ended]


def load(directory: Path) -> Run:
    """Read and check a run folder.

    Raises:
        SoftmapError: no ``run.json``, nothing finished yet, or a damaged file (named).
    """
    info = read_run(directory / "run.json")
    trials: dict[str, dict[int, FinishedTrial]] = {}
    diverged: dict[str, dict[int, dict[str, Any]]] = {}
    logs: dict[tuple[str, int], Path] = {}
    for path in result_files(directory):
        result = read_result(path)
        label, seed = str(result["variant"]), int(result["seed"])
        if label not in info["variants"] and label != info["control"]:
            continue
        if (log := path.with_name("train.jsonl")).exists():
            logs[label, seed] = log
        if result.get("diverged") is not None:
            diverged.setdefault(label, {})[seed] = result["diverged"]
        else:
            trials.setdefault(label, {})[seed] = _trial(path, result)
    if not trials:
        raise SoftmapError(
            f"{directory}: nothing to report, expected at least one finished variant "
            f"(variants/*/seed*/result.json), found {'only diverged ones' if diverged else 'none'}"
        )
    results = [trial.result for seeds in trials.values() for trial in seeds.values()]
    info["speed_note"] = replace_speed(results, read_speed(directory))
    info["peaks"] = tried_peaks(
        directory, {label: next(iter(found.values())).result for label, found in trials.items()}
    )
    labels = dict.fromkeys([info["control"], *info["variants"]])
    seeds_of = info.get("seeds_by_variant") or {}
    declared = [(label, seed) for label in labels for seed in seeds_of.get(label, info["seeds"])]
    run = Run(directory, info, trials, declared, diverged, logs)
    _check_settings(run, result_files(directory))
    check_same_windows(run)
    for label, seeds in trials.items():
        for seed, trial in seeds.items():
            _check_losses(trial, f"{directory}: {label} seed {seed}")
    return run


def result_files(directory: Path) -> list[Path]:
    """Returns the ``result.json`` of every finished trial, broken links included, which are
    reported later.
    """
    found = [folder / "result.json" for folder in directory.glob("variants/*/seed*")]
    return sorted(path for path in found if os.path.lexists(path))


def read_run(path: Path) -> dict[str, Any]:
    """Returns a ``run.json`` after its seal and its shape have been checked."""
    info = read_sealed(path)
    check(str(path), info, _RunFile)
    return info


def read_result(path: Path) -> dict[str, Any]:
    """Returns a ``result.json`` after checks of its seal, its shape and the checksums of the
    trial's other files.

    The result of a training that diverged has ``diverged`` and no budgets.
    """
    result = read_sealed(path)
    if result.get("diverged") is not None:
        check(str(path), result, _DivergedFile)
        _check_place(result, path)
        verify(path.parent, result.get("files") or {}, path)
        return result
    check(str(path), result, _ResultFile)
    if not result["budgets"]:
        raise SoftmapError(f"{path}: expected at least one evaluated budget, found none")
    for entry in (result, *result["budgets"]):
        for key in ("tokens", "seconds", "flops", "flops_per_token", "tokens_per_second"):
            if entry.get(key, 1) <= 0:
                raise SoftmapError(f"{path}: {key}: expected above 0, found {entry[key]}")
    if len(result["tokens_per_second_range"]) != 2:
        raise SoftmapError(f"{path}: tokens_per_second_range: expected two numbers")
    _check_place(result, path)
    verify(path.parent, result.get("files") or {}, path)
    return result


def _check_place(result: dict[str, Any], path: Path) -> None:
    """Raise ``SoftmapError`` unless a result lies in the folder of its variant and seed: it may be
    a copy.
    """
    place = f"{result.get('slug', path.parts[-3])}/seed{result['seed']}"
    found = f"{path.parts[-3]}/{path.parts[-2]}"
    if place != found:
        raise SoftmapError(f"{path}: expected the result of {found}, found that of {place}")


def read_log(path: Path) -> list[dict[str, float]]:
    """Returns the lines of a ``train.jsonl``, without a last one that was cut off."""
    lines = read_bytes(path).splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = parse_json(line)
            check("row", row, _Row)
        except ValueError as error:  # a SoftmapError is one
            if number == len(lines):  # the run was killed while it wrote this line
                break
            raise SoftmapError(
                f"{path}: line {number} is not a training-log row: {error}"
            ) from None
        rows.append(row)
    return rows


def _trial(path: Path, result: dict[str, Any]) -> FinishedTrial:
    budgets = [_budget(entry, path) for entry in result["budgets"]]
    return FinishedTrial(
        variant=str(result["variant"]),
        seed=int(result["seed"]),
        result=result,
        budgets=sorted(budgets, key=lambda budget: budget.tokens),
        curve=_curve(path.parent / "train.jsonl"),
        maps_LHTT=_maps(path.parent / "maps.npz"),
        answers=_answers(path.parent / "answers.json"),
    )


def _budget(entry: dict[str, Any], path: Path) -> Budget:
    # The name alone: a result file must not be able to point outside its own folder.
    losses = _array(path.parent / Path(str(entry["file"])).name, "losses", dimensions=2)
    return Budget(
        tokens=int(entry["tokens"]),
        seconds=float(entry["seconds"]),
        flops=float(entry["flops"]),
        loss=float(losses.mean()),
        losses_WT=losses,
        spent=entry.get("spent"),
    )


def _curve(path: Path) -> list[dict[str, float]]:
    """Returns the training log, one row per step; after a resume the later row of a step replaces
    the earlier.
    """
    if not path.exists():
        return []
    rows = {int(row["step"]): row for row in read_log(path)}
    return [
        {"step": step, **{key: float(rows[step][key]) for key in ("tokens", "seconds", "loss")}}
        for step in sorted(rows)
    ]


def _answers(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found = read_sealed(path)
    for name, suite in found.items():
        check(f"{path}: {name}", suite, _Suite)
    return found


def _maps(path: Path) -> Array | None:
    if not path.exists():
        return None
    maps = _array(path, "maps", dimensions=4)
    if maps.shape[2] != maps.shape[3]:
        raise SoftmapError(f"{path}: expected square maps (L, H, T, T), found {maps.shape}")
    return maps


def _array(path: Path, key: str, dimensions: int) -> Array:
    """Returns one finite float64 array of an ``.npz`` file; never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = np.asarray(archive[key], dtype=np.float64)
    except Exception as error:  # a damaged file raises many kinds in NumPy, zipfile and zlib
        raise SoftmapError(f"{path}: expected an array {key!r}, found {reason(error)}") from None
    if array.ndim != dimensions or array.size == 0:
        raise SoftmapError(
            f"{path}: expected {key!r} with {dimensions} dimensions and at least one value, "
            f"found shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise SoftmapError(f"{path}: expected finite numbers in {key!r}, found NaN or infinity")
    return array


def _check_settings(run: Run, results: list[Path]) -> None:
    """Check that the run's settings are those that its trials were trained with."""
    for path in (result.with_name("trial.json") for result in results):
        mine = read_sealed(path) if path.exists() else {}
        for key, value in (run.info.get("settings") or {}).items():
            if mine.get(key, value) != value:
                raise SoftmapError(
                    f"{path}: expected {key} {shown(value)} of run.json, found {shown(mine[key])}"
                )


def check_same_windows(run: Run) -> None:
    """Raise ``SoftmapError`` unless held-out windows and budgets are the same in every trial, so
    that losses can be subtracted.
    """
    trials = [trial for seeds in run.trials.values() for trial in seeds.values()]
    expected = _layout(trials[0])
    for trial in trials[1:]:
        if _layout(trial) != expected:
            raise SoftmapError(
                f"{run.directory}: {trial.variant} seed {trial.seed} has budgets and windows "
                f"{_layout(trial)}, expected those of {trials[0].variant}: {expected}"
            )


def _check_losses(trial: FinishedTrial, where: str) -> None:
    """Check that a result's losses are those of its arrays, up to rounding."""
    entries = sorted(trial.result["budgets"], key=lambda entry: entry["tokens"])
    for said, budget in zip(entries, trial.budgets, strict=True):
        if abs(said["loss"] - budget.loss) > 1e-3 * max(1.0, abs(budget.loss)):
            raise SoftmapError(
                f"{where}: expected the loss {said['loss']:.6g} of its result.json, found "
                f"{budget.loss:.6g} in {said['file']}"
            )


def _layout(trial: FinishedTrial) -> list[tuple[int, tuple[int, ...]]]:
    return [(budget.tokens, budget.losses_WT.shape) for budget in trial.budgets]
