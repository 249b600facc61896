"""A run as numbers: one row per finished variant, differences to the control, what is missing.

Shape letters: N budgets, S seeds, W held-out windows, T positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmap.report import attention, stats
from softmap.report.load import Run, Trial
from softmap.report.paired import add_differences, finite, position_losses, window_losses

Array = NDArray[np.floating[Any]]
Row = dict[str, Any]

COSTS = {
    "tokens_per_second": "speed_ratio",
    "flops_per_token": "flops_ratio",
    "peak_memory_bytes": "memory_ratio",
    "cache_bytes_per_token": "cache_ratio",
    "parameters": "parameters_ratio",
    "train_seconds": "time_ratio",
}


def rows(run: Run) -> list[Row]:
    """One dict per finished variant in the run's order, the control first."""
    finished = [label for label in run.labels if label in run.trials]
    control = run.trials.get(run.control)
    table = [_row(run, label) for label in finished]
    if control is not None:
        for row in table:
            _add_cost_ratios(row, table[0])
            if not row["is_control"]:
                add_differences(row, run.trials[row["variant"]], control)
    return table


def _row(run: Run, label: str) -> Row:
    trials = [run.trials[label][seed] for seed in sorted(run.trials[label])]
    first = trials[0].result
    losses_NSW = window_losses(trials)
    budgets = [_budget(trials, index, losses_NSW[index]) for index in range(len(losses_NSW))]
    return {
        "variant": label,
        "is_control": label == run.control,
        "title": first.get("title"),
        "paper": first.get("paper"),
        "source": first.get("source"),
        "seeds": [trial.seed for trial in trials],
        "loss": budgets[-1]["loss"],
        "stderr": budgets[-1]["stderr"],
        **_costs(trials),
        "budgets": budgets,
        "by_position": _by_position(trials),
        "maps": _map_numbers(trials),
        "difference": None,
        "token_ratio": None,
        "equal_time": None,
    }


def _costs(trials: list[Trial]) -> Row:
    """What the variant costs; over seeds the median speed and time, the largest memory."""
    results = [trial.result for trial in trials]
    first = results[0]
    ranges = np.array([result["tokens_per_second_range"] for result in results], dtype=float)
    return {
        "tokens_per_second": _median([result["tokens_per_second"] for result in results]),
        "tokens_per_second_range": [float(ranges[:, 0].min()), float(ranges[:, 1].max())],
        "flops_per_token": first["flops_per_token"],
        "peak_memory_bytes": max(result["peak_memory_bytes"] for result in results),
        "cache_bytes_per_token": first["cache_bytes_per_token"],
        "parameters": first["parameters"],
        "parameters_non_embedding": first.get("parameters_non_embedding"),
        "intermediate_size": first["intermediate_size"],
        "peak_lr": first["peak_lr"],
        "peak_lr_source": first["peak_lr_source"],
        "impl": first.get("impl"),
        "train_seconds": _median([result["train_seconds"] for result in results]),
    }


def _budget(trials: list[Trial], index: int, losses_SW: Array) -> Row:
    budgets = [trial.budgets[index] for trial in trials]
    level = stats.interval(losses_SW)
    return {
        "tokens": budgets[0].tokens,
        "seconds": _median([budget.seconds for budget in budgets]),
        "flops": budgets[0].flops,
        "loss": level.mean,
        "stderr": finite(level.stderr),
        "loss_by_seed": [budget.loss for budget in budgets],
        "difference": None,
    }


def _add_cost_ratios(row: Row, control: Row) -> None:
    for cost, ratio in COSTS.items():
        row[ratio] = row[cost] / control[cost] if control[cost] else None


def _by_position(trials: list[Trial]) -> list[Row]:
    """Final loss in bins of positions; ``from`` and ``to`` are both included."""
    edges = stats.position_edges(trials[0].budgets[-1].losses_WT.shape[1])
    means = position_losses(trials, edges).mean(axis=(0, 1))
    return [
        {"from": start, "to": stop - 1, "loss": float(loss), "difference": None}
        for start, stop, loss in zip(edges[:-1], edges[1:], means, strict=True)
    ]


def _map_numbers(trials: list[Trial]) -> dict[str, float] | None:
    maps = first_maps(trials)
    return None if maps is None else attention.statistics(maps)


def first_maps(trials: list[Trial]) -> Array | None:
    """(L, H, T, T) attention maps of the first seed that saved any."""
    return next((trial.maps_LHTT for trial in trials if trial.maps_LHTT is not None), None)


def _median(values: list[float]) -> float:
    return float(np.median(values))
