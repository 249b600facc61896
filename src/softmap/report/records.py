"""The rows of a run as flat records, one list per chart."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmap.report.load import Run
from softmap.report.words import listed, ratio, si, signed

Row = dict[str, Any]
POINTS = 80


def curves(run: Run, rows: list[Row]) -> list[Row]:
    """Training loss, averaged over seeds and over runs of neighbouring steps (80 per variant)."""
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
    """Every decayed point: tokens, seconds, FLOPs, loss with one standard error each way."""
    return [
        {
            "variant": row["variant"],
            "tokens": budget["tokens"],
            "seconds": _short(budget["seconds"]),
            "flops": budget["flops"],
            "loss": round(budget["loss"], 5),
            "low": round(budget["loss"] - (budget["run_stderr"] or 0), 5),
            "high": round(budget["loss"] + (budget["run_stderr"] or 0), 5),
            "seeds": listed([f"{loss:.3f}" for loss in budget["loss_by_seed"]]),
        }
        for row in rows
        for budget in row["budgets"]
    ]


def differences(rows: list[Row]) -> list[Row]:
    """Difference to the control at every budget with its limits (the mean, without any)."""
    return [
        {
            "variant": row["variant"],
            "budget": f"{si(budget['tokens'])} tokens",
            "tokens": budget["tokens"],
            "final": budget is row["budgets"][-1],
            **_limits(budget["difference"]),
            "interval": _interval(budget["difference"]),
        }
        for row in rows
        for budget in row["budgets"]
        if budget["difference"] is not None
    ]


def runs(rows: list[Row]) -> list[Row]:
    """Every run of a compared variant at every budget, its loss minus the control's mean."""
    control = next((row for row in rows if row["is_control"]), None)
    if control is None:
        return []
    return [
        {
            "variant": row["variant"],
            "budget": f"{si(budget['tokens'])} tokens",
            "seed": seed,
            "loss": round(loss, 5),
            "run": round(loss - theirs["loss"], 5),
        }
        for row in rows
        if not row["is_control"]
        for budget, theirs in zip(row["budgets"], control["budgets"], strict=True)
        for seed, loss in zip(row["seeds"], budget["loss_by_seed"], strict=True)
    ]


def positions(rows: list[Row]) -> list[Row]:
    """Loss and difference by bin of positions (counted from 1), at the bin's middle."""
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
    """Speed, memory, time and loss at the final budget, one record per variant."""
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
    if difference is None:
        return dict.fromkeys(("mean", "low", "high"))
    mean = difference["mean"]
    return {"mean": mean} | {
        end: mean if difference[end] is None else difference[end] for end in ("low", "high")
    }


def _interval(difference: Row) -> str:
    if difference["low"] is None:
        return "none: nothing was repeated"
    return f"{signed(difference['low'])} to {signed(difference['high'])}"


def _span(start: int, stop: int) -> str:
    return str(start) if start == stop else f"{start}\N{EN DASH}{stop}"


def _short(value: float) -> float:
    return float(f"{value:.5g}")
