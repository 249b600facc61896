"""Several runs as one: their variants side by side, where what was measured is the same.

Every variant is called ``run/variant``; the control is the first run's. The runs may differ in how
they were trained (the page says in what), not in what their losses are losses of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError, shown
from softmap.report.load import FinishedTrial, Run, check_same_windows, load
from softmap.report.words import listed

APART = (
    "Speed and memory of different runs were measured at different times: other work of the "
    "machine may affect them, and every comparison at equal time, between runs."
)
# What has to be the same before two losses can be subtracted.
MEASURED = (
    "data",
    "vocab_size",
    "model.context",
    "evaluation.windows",
    "evaluation.passage_tokens",
)


def load_together(directories: Sequence[Path]) -> Run:
    """Returns several runs as one. ``info["runs"]`` names them, ``info["differences"]`` says in
    words how they differ.

    Raises:
        SoftmapError: a folder given twice, runs whose text, tokenizer, windows or budgets differ,
            and whatever [`softmap.report.load.load`][] refuses.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise SoftmapError(f"expected different runs, found one twice: {_paths(directories)}")
    runs = [load(directory) for directory in directories]
    for run in runs[1:]:
        check_comparable(runs[0], run, (*MEASURED, "budgets"))
    named = dict(zip(_names(runs), runs, strict=True))
    joined = Run(
        directory=directories[0],
        info=_info(named),
        trials={
            f"{name}/{label}": _renamed(trials, f"{name}/{label}")
            for name, run in named.items()
            for label, trials in run.trials.items()
        },
        declared=[
            (f"{name}/{label}", seed) for name, run in named.items() for label, seed in run.declared
        ],
        diverged={
            f"{name}/{label}": seeds
            for name, run in named.items()
            for label, seeds in run.diverged.items()
        },
        logs={
            (f"{name}/{label}", seed): log
            for name, run in named.items()
            for (label, seed), log in run.logs.items()
        },
    )
    check_same_windows(joined)
    return joined


def _info(named: dict[str, Run]) -> dict[str, Any]:
    name, first = next(iter(named.items()))
    runs = named.values()
    plain = {f"{name}/{label}": label for name, run in named.items() for label in run.labels}
    return {
        **first.info,
        "name": " and ".join(named),
        "control": f"{name}/{first.control}",
        "variants": list(plain),
        "plain_labels": plain,
        "seeds": sorted({seed for run in runs for seed in run.info["seeds"]}),
        "seeds_by_variant": {
            f"{name}/{label}": seeds
            for name, run in named.items()
            for label, seeds in (run.info.get("seeds_by_variant") or {}).items()
        },
        "peaks": [
            {**row, "variant": f"{name}/{row['variant']}"}
            for name, run in named.items()
            for row in run.info.get("peaks") or []
        ],
        "time": None,
        "resolve": _first_stages(named),
        "command": f"softmap report {_paths([run.directory for run in runs])}",
        "recipe": None,
        "speed_note": APART,
        "runs": [f"{name}: {run.info.get('command')}" for name, run in named.items()],
        "differences": _differences(named),
    }


def _first_stages(named: dict[str, Run]) -> dict[str, Any] | None:
    """Returns the first stages of the runs, which have fixed their numbers of runs."""
    first = {
        f"{name}/{label}": seeds
        for name, run in named.items()
        for label, seeds in (run.info.get("resolve") or {}).get("first_seeds", {}).items()
    }
    return {"first_seeds": first} if first else None


def _names(runs: list[Run]) -> list[str]:
    """Returns the runs' names, or their folders where two runs have the same name."""
    names = [str(run.info["name"]) for run in runs]
    return names if len(set(names)) == len(names) else [str(run.directory) for run in runs]


def _renamed(trials: dict[int, FinishedTrial], label: str) -> dict[int, FinishedTrial]:
    return {seed: dataclasses.replace(trial, variant=label) for seed, trial in trials.items()}


def check_comparable(one: Run, other: Run, keys: Sequence[str] = MEASURED) -> None:
    """Raise ``SoftmapError`` for runs whose losses are of different text, tokens, windows (or
    ``budgets``).
    """
    before, after = _facts(one), _facts(other)
    keys = [key for key in keys if before[key] != after[key]]
    if keys:
        found = [f"{key} {shown(before[key], 40)} and {shown(after[key], 40)}" for key in keys]
        raise SoftmapError(
            f"{one.directory} and {other.directory} cannot be compared: they differ in "
            f"{listed(found)}"
        )


def _facts(run: Run) -> dict[str, Any]:
    """Returns what the losses are measured on, and at how many tokens."""
    data, model = run.info.get("data") or {}, run.info.get("model") or {}
    settings = {
        "data": data.get("hash"),
        "vocab_size": data.get("vocab_size"),
        "model.context": model.get("context"),
        **(run.info.get("settings") or {}),
    }
    budgets = (run.info.get("training") or {}).get("budgets_tokens")
    return {key: settings.get(key) for key in MEASURED} | {"budgets": budgets}


def _differences(named: dict[str, Run]) -> list[str]:
    """Returns the settings, software and machines that are not the same in all, each with its
    values.
    """
    every = [_conditions(run) for run in named.values()]
    sentences = []
    for key in dict.fromkeys(key for found in every for key in found):
        values = [_plain(found.get(key)) for found in every]
        if len(set(values)) > 1:
            each = (f"{name}: {value}" for name, value in zip(named, values, strict=True))
            sentences.append(f"{key} ({', '.join(each)})")
    return sentences


def _conditions(run: Run) -> dict[str, Any]:
    info = run.info
    settings = {k: v for k, v in (info.get("settings") or {}).items() if k != "control"}
    device = (info.get("device") or {}).get("name")
    versions = {f"version of {k}": v for k, v in (info.get("versions") or {}).items()}
    return {**settings, "machine": device, "commit": info.get("commit"), **versions}


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else shown(value)


def _paths(directories: Sequence[Path]) -> str:
    return " ".join(str(directory) for directory in directories)
