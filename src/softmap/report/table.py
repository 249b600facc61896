"""The final results as a table."""

from __future__ import annotations

import csv
import io
from typing import Any

ENDS = {"": "value", "_low": "low", "_high": "high", "_bound": "bound"}
# Columns of the parts of a row, by the part; each with the name that its number has there.
PARTS = {
    "difference": {
        "difference": "mean",
        "difference_low": "low",
        "difference_high": "high",
        "difference_p": "p",
        "answer": "answer",
    },
    "trend": {"trend": "words", "trend_per_doubling": "per_doubling"},
    "equal_time": {
        "equal_time_difference": "mean",
        "equal_time_low": "low",
        "equal_time_high": "high",
    },
    "compute_factor": {
        "compute_factor": "value",
        "compute_factor_low": "low",
        "compute_factor_high": "high",
    },
}
CSV_COLUMNS = (
    *("variant", "paper", "seeds", "runs", "diverged", "loss", "bits_per_byte"),
    *("run_sd", "run_stderr", "text_stderr"),
    *PARTS["difference"],
    *PARTS["trend"],
    *PARTS["equal_time"],
    *(f"{cost}_at_equal_loss{end}" for cost in ("tokens", "flops", "time") for end in ENDS),
    *PARTS["compute_factor"],
    *("tokens_per_second", "speed_ratio", "flops_per_token", "peak_memory_bytes"),
    *("cache_bytes_per_token", "parameters", "intermediate_size"),
    *("peak_lr", "peak_lr_source", "train_seconds", "impl"),
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
    flat = row | {
        "seeds": " ".join(str(seed) for seed in row["seeds"]),
        "runs": len(row["seeds"]),
        "diverged": len(row["diverged"]),
    }
    for part, names in PARTS.items():
        flat |= {column: (row[part] or {}).get(name) for column, name in names.items()}
    for cost, found in (row["equal_loss"] or {}).items():
        flat |= {f"{cost}_at_equal_loss{end}": found[field] for end, field in ENDS.items()}
    return flat
