"""The final results as a table."""

from __future__ import annotations

import csv
import io
from typing import Any

CSV_COLUMNS = (
    "variant",
    "paper",
    "seeds",
    "loss",
    "stderr",
    "difference",
    "difference_low",
    "difference_high",
    "equal_time_difference",
    "equal_time_low",
    "equal_time_high",
    "token_ratio",
    "token_ratio_low",
    "token_ratio_high",
    "token_ratio_note",
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
    """The final results as CSV: one line per variant, empty cells where nothing was measured."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_flat(row) for row in rows)
    return out.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    difference = row["difference"] or {}
    equal_time = row["equal_time"] or {}
    ratio = row["token_ratio"] or {}
    return row | {
        "seeds": " ".join(str(seed) for seed in row["seeds"]),
        "difference": difference.get("mean"),
        "difference_low": difference.get("low"),
        "difference_high": difference.get("high"),
        "equal_time_difference": equal_time.get("mean"),
        "equal_time_low": equal_time.get("low"),
        "equal_time_high": equal_time.get("high"),
        "token_ratio": ratio.get("value"),
        "token_ratio_low": ratio.get("low"),
        "token_ratio_high": ratio.get("high"),
        "token_ratio_note": ratio.get("reason"),
    }
