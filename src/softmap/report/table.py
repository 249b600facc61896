"""The final results as a table."""

from __future__ import annotations

import csv
import io
from typing import Any

ENDS = ("", "_low", "_high", "_bound")
CSV_COLUMNS = (
    "variant",
    "paper",
    "seeds",
    "runs",
    "diverged",
    "loss",
    "bits_per_byte",
    "run_sd",
    "run_stderr",
    "text_stderr",
    "difference",
    "difference_low",
    "difference_high",
    "difference_p",
    "answer",
    "trend",
    "trend_per_doubling",
    "equal_time_difference",
    "equal_time_low",
    "equal_time_high",
    *(f"{cost}_at_equal_loss{end}" for cost in ("tokens", "flops", "time") for end in ENDS),
    "compute_factor",
    "compute_factor_low",
    "compute_factor_high",
    "tokens_per_second",
    "speed_ratio",
    "flops_per_token",
    "peak_memory_bytes",
    "cache_bytes_per_token",
    "parameters",
    "intermediate_size",
    "peak_lr",
    "peak_lr_source",
    "train_seconds",
    "impl",
)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Returns the final results as CSV: one line per variant, empty cells where nothing was
    measured.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    return out.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    difference, equal_time = row["difference"] or {}, row["equal_time"] or {}
    trend, factor = row["trend"] or {}, row["compute_factor"] or {}
    flat = row | {
        "seeds": " ".join(str(seed) for seed in row["seeds"]),
        "runs": len(row["seeds"]),
        "diverged": len(row["diverged"]),
        "difference": difference.get("mean"),
        "difference_low": difference.get("low"),
        "difference_high": difference.get("high"),
        "difference_p": difference.get("p"),
        "answer": difference.get("answer"),
        "trend": trend.get("words"),
        "trend_per_doubling": trend.get("per_doubling"),
        "equal_time_difference": equal_time.get("mean"),
        "equal_time_low": equal_time.get("low"),
        "equal_time_high": equal_time.get("high"),
        "compute_factor": factor.get("value"),
        "compute_factor_low": factor.get("low"),
        "compute_factor_high": factor.get("high"),
    }
    for cost, found in (row["equal_loss"] or {}).items():
        fields = zip(ENDS, ("value", "low", "high", "bound"), strict=True)
        flat |= {f"{cost}_at_equal_loss{end}": found[field] for end, field in fields}
    return flat
