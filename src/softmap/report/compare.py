"""A run as numbers: one row per finished variant, differences to the control, what is missing.

Shape letters: R runs of a variant, N budgets, W held-out windows, T positions.
"""

from __future__ import annotations

from math import log, sqrt
from typing import Any

import numpy as np

from softmap.report import attention, stats
from softmap.report.answers import Question
from softmap.report.differences import KEYS, add_differences, statistics
from softmap.report.family import Family, position_losses, seconds, windows
from softmap.report.load import FinishedTrial, Run
from softmap.report.stats import Array

Row = dict[str, Any]

COSTS = {
    "tokens_per_second": "speed_ratio",
    "flops_per_token": "flops_ratio",
    "peak_memory_bytes": "memory_ratio",
    "cache_bytes_per_token": "cache_ratio",
    "parameters": "parameters_ratio",
    "train_seconds": "time_ratio",
}


def evidence(run: Run, question: Question | None = None) -> tuple[list[Row], Row]:
    """Returns one dict per finished variant, the control first, and what is known of the spread."""
    family = Family(run, question or Question())
    table = [_row(run, label, family) for label in family.trials]
    if run.control in family.trials:
        for row in table:
            _add_cost_ratios(row, table[0])
        add_differences(table, family)
    return table, statistics(family, table)


def _row(run: Run, label: str, family: Family) -> Row:
    trials = family.trials[label]
    first = trials[0].result
    diverged = run.diverged.get(label, {})
    budgets = [_budget(family, label, index) for index in range(len(trials[0].budgets))]
    variance, text = family.spreads.variance(label), stats.block_variance(windows(trials))[0]
    bytes_per_token = (run.info.get("data") or {}).get("bytes_per_token")
    loss, maps = budgets[-1]["loss"], first_maps(trials)
    return {
        "variant": label,
        "is_control": label == run.control,
        "title": first.get("title"),
        "paper": first.get("paper"),
        "source": first.get("source"),
        "spec": first.get("spec"),
        "backbone": first.get("backbone"),
        "seeds": [trial.seed for trial in trials],
        "diverged": [{"seed": seed, **found} for seed, found in sorted(diverged.items())],
        "loss": loss,
        "bits_per_byte": loss / log(2) / bytes_per_token if bytes_per_token else None,
        "run_sd": _own_sd(family, label),
        "run_stderr": None if variance is None else sqrt(variance / len(trials)),
        "text_stderr": sqrt(text) if np.isfinite(text) else None,
        **_costs(trials),
        "budgets": budgets,
        "by_position": _by_position(trials),
        "maps": None if maps is None else attention.statistics(maps),
        **dict.fromkeys(KEYS),
    }


def _own_sd(family: Family, label: str) -> float | None:
    final = family.losses[label][:, -1]
    return float(np.std(final, ddof=1)) if len(final) > 1 else None


def _costs(trials: list[FinishedTrial]) -> Row:
    """Returns the variant's costs; over seeds the median speed and time, and the largest memory."""
    results = [trial.result for trial in trials]
    first = results[0]
    ranges = np.array([result["tokens_per_second_range"] for result in results], dtype=float)
    return {
        "tokens_per_second": float(np.median([r["tokens_per_second"] for r in results])),
        "tokens_per_second_range": [float(ranges[:, 0].min()), float(ranges[:, 1].max())],
        "speed_rounds": first.get("speed_rounds"),
        "flops_per_token": first["flops_per_token"],
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
        "cache_bytes_per_token": first["cache_bytes_per_token"],
        "parameters": first["parameters"],
        "parameters_non_embedding": first.get("parameters_non_embedding"),
        "intermediate_size": first["intermediate_size"],
        "peak_lr": first["peak_lr"],
        "peak_lr_source": first["peak_lr_source"],
        "schedule": first.get("schedule"),
        "mean_lr": first.get("mean_lr"),
        "impl": first.get("impl"),
        "train_seconds": float(np.median([r["train_seconds"] for r in results])),
    }


def _budget(family: Family, label: str, index: int) -> Row:
    trials, found = family.trials[label], family.losses[label][:, index]
    error = family.compare(family.each(lambda _, y: y[:, index])).spreads.error({label: len(found)})
    return {
        "tokens": trials[0].budgets[index].tokens,
        "seconds": float(seconds(trials, family.tokens)[index]),
        "flops": trials[0].budgets[index].flops,
        "loss": float(found.mean()),
        "run_stderr": error.stderr if error else None,
        "loss_by_seed": [float(loss) for loss in found],
        "difference": None,
    }


def _add_cost_ratios(row: Row, control: Row) -> None:
    for cost, ratio in COSTS.items():
        row[ratio] = row[cost] / control[cost] if control[cost] else None


def _by_position(trials: list[FinishedTrial]) -> list[Row]:
    """Returns the final loss in bins of positions; ``from`` and ``to`` are both included."""
    edges = stats.position_edges(trials[0].budgets[-1].losses_WT.shape[1])
    means = position_losses(trials, edges).mean(axis=0)
    return [
        {"from": start, "to": stop - 1, "loss": float(loss), "difference": None}
        for start, stop, loss in zip(edges[:-1], edges[1:], means, strict=True)
    ]


def first_maps(trials: list[FinishedTrial]) -> Array | None:
    """Returns the attention maps (L, H, T, T) of the first seed that saved any, or None."""
    return next((trial.maps_LHTT for trial in trials if trial.maps_LHTT is not None), None)
