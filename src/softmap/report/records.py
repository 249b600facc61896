"""The rows of a run as flat records, one list per chart."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmap.report.load import Run
from softmap.report.words import listed, ratio, si, signed

Row = dict[str, Any]
POINTS = 80
MOST_LISTED = 5  # runs that a tooltip lists


def curves(run: Run, rows: list[Row]) -> list[Row]:
    """Returns training loss, averaged over seeds and over neighbouring steps (80 points each)."""
    return [
        {"variant": row["variant"], "flops": tokens * row["flops_per_token"]}
        | {"tokens": tokens, "seconds": _short(tokens / row["tokens_per_second"])}
        | {"loss": round(loss, 4)}
        for row in rows
        for tokens, loss in _thinned(run, row["variant"])
    ]


def _thinned(run: Run, label: str) -> list[tuple[int, float]]:
    logs = [trial.curve for trial in run.trials[label].values() if trial.curve]
    length = min((len(log) for log in logs), default=0)
    if length == 0:
        return []
    values = np.array([[[r["tokens"], r["loss"]] for r in log[:length]] for log in logs]).mean(
        axis=0
    )
    parts = np.array_split(values, min(POINTS, length))
    return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def budgets(rows: list[Row]) -> list[Row]:
    """Returns every decayed point: tokens, seconds, FLOPs, and loss with one standard error each
    way.
    """
    return [
        {
            "variant": row["variant"],
            "tokens": budget["tokens"],
            "seconds": _short(budget["seconds"]),
            "flops": budget["flops"],
            "loss": round(budget["loss"], 5),
            "low": round(budget["loss"] - (budget["run_stderr"] or 0), 5),
            "high": round(budget["loss"] + (budget["run_stderr"] or 0), 5),
            "runs": _each(budget["loss_by_seed"]),
        }
        for row in rows
        for budget in row["budgets"]
    ]


def differences(rows: list[Row]) -> list[Row]:
    """Returns the difference from the control at every budget with its limits (the mean where there
    are none).
    """
    return [
        {
            "variant": row["variant"],
            "budget": f"{si(budget['tokens'])} tokens",
            "tokens": budget["tokens"],
            "final": budget is row["budgets"][-1],
            **_limits(budget["difference"]),
        }
        for row in rows
        for budget in row["budgets"]
        if budget["difference"] is not None
    ]


def runs(rows: list[Row]) -> list[Row]:
    """Returns the final loss of every run."""
    return [
        {"variant": row["variant"], "seed": seed, "loss": round(loss, 5)}
        for row in rows
        for seed, loss in zip(row["seeds"], row["budgets"][-1]["loss_by_seed"], strict=True)
    ]


def means(rows: list[Row]) -> list[Row]:
    """Returns the mean final loss of every variant, and the number of its runs."""
    return [
        {"variant": row["variant"], "loss": round(row["loss"], 5), "runs": len(row["seeds"])}
        for row in rows
    ]


def positions(rows: list[Row]) -> list[Row]:
    """Returns loss and difference by bin of positions (counted from 1), at the bin's middle."""
    return [
        {
            "variant": row["variant"],
            "position": round(((entry["from"] + 1) * (entry["to"] + 1)) ** 0.5, 2),
            "bin": _span(entry["from"] + 1, entry["to"] + 1),
            "loss": round(entry["loss"], 5),
            **_limits(entry["difference"]),
        }
        for row in rows
        for entry in row["by_position"]
    ]


def costs(rows: list[Row]) -> list[Row]:
    """Returns speed, memory, time and loss at the final budget, one record per variant."""
    return [
        {
            "variant": row["variant"],
            "loss": round(row["loss"], 5),
            "seconds": _short(row["budgets"][-1]["seconds"]),
            "speed": _short(row["tokens_per_second"]),
            "slow": _short(row["tokens_per_second_range"][0]),
            "fast": _short(row["tokens_per_second_range"][1]),
            "bytes": row["peak_memory_bytes"],
            "speed_text": _with_ratio(si(row["tokens_per_second"]), row.get("speed_ratio")),
            "memory_text": _with_ratio(si(row["peak_memory_bytes"], "B"), row.get("memory_ratio")),
        }
        for row in rows
    ]


def _with_ratio(text: str, relative: float | None) -> str:
    return text if relative is None else f"{text} ({ratio(relative)})"


def _limits(difference: Row | None) -> Row:
    """Returns ``mean``, ``low`` and ``high``, with the limits at the mean where none are known, and
    ``interval`` in words.
    """
    if difference is None:
        return dict.fromkeys(("mean", "low", "high", "interval"))
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    if low is None:
        return {"mean": mean, "low": mean, "high": mean, "interval": "none: nothing was repeated"}
    return {"mean": mean, "low": low, "high": high, "interval": f"{signed(low)} to {signed(high)}"}


def _span(start: int, stop: int) -> str:
    return str(start) if start == stop else f"{start}\N{EN DASH}{stop}"


def _each(losses: list[float]) -> str:
    """Returns every run's loss, or the range where runs are many."""
    if len(losses) > MOST_LISTED:
        return f"{min(losses):.3f} to {max(losses):.3f} in {len(losses)} runs"
    return listed([f"{loss:.3f}" for loss in losses])


def _short(value: float) -> float:
    return float(f"{value:.5g}")
