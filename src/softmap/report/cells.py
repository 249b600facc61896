"""The cells of the main table: what they show, and what they sort by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softmap.report.words import per_cent, ratio, si, signed

Row = dict[str, Any]
DASH = "\N{EM DASH}"


@dataclass(frozen=True)
class Column:
    """A heading with the sentence that explains it."""

    key: str
    title: str
    help: str


@dataclass(frozen=True)
class Cell:
    """``text`` with ``detail`` in small print; ``sort`` is None where nothing was measured.

    ``bar`` places an interval on the shared scale of its column, as per cent of the width:
    (low, middle, high, zero). ``note`` explains an empty cell, or adds to a full one.
    """

    key: str
    text: str
    sort: float | None
    detail: str = ""
    note: str = ""
    status: str = ""
    bar: tuple[float, float, float, float] | None = None


COLUMNS = (
    Column("loss", "Held-out loss", "Nats per token at the final budget, ± one standard error"),
    Column(
        "difference",
        "Minus the control's",
        "Paired over the same held-out windows, with its 95% interval; negative is better",
    ),
    Column("equal_time", "At equal time", "The same difference with no more time than the control"),
    Column(
        "token_ratio",
        "Tokens for equal loss",
        "Tokens needed for the control's final loss, over the control's tokens; below 1 is better",
    ),
    Column("speed", "Tokens per second", "Median in training, and times the control's"),
    Column("flops", "FLOPs per token", "Forward and backward, a multiply-add counted as two"),
    Column("memory", "Peak memory", "The highest in training, and times the control's"),
    Column("cache", "Cache per token", "Bytes that decoding keeps for each token"),
    Column("parameters", "Parameters", "All of them, and the change from the control"),
    Column("mlp", "MLP width", "Solved so that the parameters are equal"),
    Column("peak_lr", "Peak learning rate", "And where it comes from"),
)


def table(rows: list[Row]) -> list[list[Cell]]:
    """The cells of every row; the little interval bars of a column share one scale."""
    scales = {key: _reach(rows, key) for key in ("difference", "equal_time")}
    return [_row(row, scales) for row in rows]


def _reach(rows: list[Row], key: str) -> float:
    """The largest distance from zero of any interval of the column, in nats."""
    pairs = [row[key] for row in rows if row[key]]
    limits = [abs(pair[end]) for pair in pairs for end in ("low", "high") if pair[end] is not None]
    return max(limits, default=1.0) or 1.0


def _row(row: Row, scales: dict[str, float]) -> list[Cell]:
    """One cell per entry of :data:`COLUMNS`."""
    stderr = "" if row["stderr"] is None else f"± {row['stderr']:.3f}"
    return [
        Cell("loss", f"{row['loss']:.3f}", row["loss"], stderr),
        _difference("difference", row, scales["difference"]),
        _difference("equal_time", row, scales["equal_time"]),
        _token_ratio(row),
        _cost("speed", row, "tokens_per_second", "speed_ratio"),
        _cost("flops", row, "flops_per_token", "flops_ratio"),
        _cost("memory", row, "peak_memory_bytes", "memory_ratio", "B"),
        _cost("cache", row, "cache_bytes_per_token", "cache_ratio", "B"),
        _parameters(row),
        Cell("mlp", f"{row['intermediate_size']:,}", row["intermediate_size"]),
        Cell("peak_lr", f"{row['peak_lr']:.3g}", row["peak_lr"], row["peak_lr_source"]),
    ]


def token_notes(rows: list[Row]) -> list[tuple[str, list[str]]]:
    """(reason, variants) for the token ratios that have no plain value."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row["token_ratio"] and row["token_ratio"]["reason"]:
            notes.setdefault(row["token_ratio"]["reason"], []).append(row["variant"])
    return list(notes.items())


def _difference(key: str, row: Row, half_scale: float) -> Cell:
    pair = row[key]
    if row["is_control"]:
        return Cell(key, DASH, 0.0, note="the control")
    if pair is None:
        too_slow = key == "equal_time" and row["difference"] is not None
        note = "its first budget took longer than the control's run" if too_slow else "no control"
        return Cell(key, DASH, None, note=note)
    if pair["low"] is None:
        return Cell(key, signed(pair["mean"]), pair["mean"], note="one window, no interval")
    status = {-1: "better", 0: "none", 1: "worse"}[pair["sign"]]
    place = [50 + 48 * pair[end] / half_scale for end in ("low", "mean", "high")]
    bar = (round(place[0], 1), round(place[1], 1), round(place[2], 1), 50.0)
    limits = f"{signed(pair['low'])} to {signed(pair['high'])}"
    return Cell(key, signed(pair["mean"]), pair["mean"], limits, status=status, bar=bar)


def _token_ratio(row: Row) -> Cell:
    if row["is_control"]:
        return Cell("token_ratio", ratio(1.0), 1.0, note="by definition")
    tokens = row["token_ratio"]
    if tokens is None:
        return Cell("token_ratio", DASH, None, note="no control")
    if tokens["bound"]:
        text = f"{tokens['bound']}\N{NO-BREAK SPACE}{ratio(tokens['limit'])}"
        edge = -1e-9 if tokens["bound"] == "<" else 1e-9
        return Cell("token_ratio", text, tokens["limit"] + edge, note=tokens["reason"])
    if tokens["value"] is None:
        return Cell("token_ratio", DASH, None, note=tokens["reason"])
    low = "below the curve" if tokens["low"] is None else f"{tokens['low']:.2f}"
    high = "never" if tokens["high"] is None else f"{tokens['high']:.2f}"
    return Cell("token_ratio", ratio(tokens["value"]), tokens["value"], f"{low} to {high}")


def _cost(key: str, row: Row, field: str, relative: str, unit: str = "") -> Cell:
    times = row.get(relative)
    shown = "" if times is None or row["is_control"] else ratio(times)
    return Cell(key, si(row[field], unit), row[field], shown)


def _parameters(row: Row) -> Cell:
    relative = row.get("parameters_ratio")
    shown = "" if relative is None or row["is_control"] else per_cent(relative - 1)
    return Cell("parameters", f"{row['parameters']:,}", row["parameters"], shown)
