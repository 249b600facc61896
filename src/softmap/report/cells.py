"""The cells of the main table: what they show, and what they sort by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softmap.report.answers import EQUAL, HIGHER, LOWER, STATUS, UNRESOLVED
from softmap.report.words import limits, per_cent, ratio, si, signed

Row = dict[str, Any]
DASH = "\N{EM DASH}"
WORDS = {LOWER: "lower", HIGHER: "higher", EQUAL: "equal", UNRESOLVED: "not resolved"}
EQUAL_LOSS = (("tokens", "compute", "time"), ("tokens", "flops", "time"))  # columns, costs


@dataclass(frozen=True)
class Column:
    """A heading with the sentence that explains it."""

    key: str
    title: str
    help: str


@dataclass(frozen=True)
class Cell:
    """``text`` with ``detail``, lines of small print; ``sort`` is None where nothing was measured.

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


RESULTS = (
    Column(
        "loss",
        "Held-out loss",
        "Nats per token at the final budget, the mean of the runs ± its standard error; and bits "
        "per byte, which compare between tokenizers",
    ),
    Column(
        "difference",
        "Minus the control's",
        "With the interval that holds for all variants together; negative is better",
    ),
    Column("trend", "Trend", "Over the last budgets, as far as it is resolved"),
    Column("equal_time", "At equal time", "The same difference with no more time than the control"),
    Column(
        "equal_compute",
        "At equal total compute",
        "The same difference where decays that were thrown away and restarts count",
    ),
    Column(
        "tokens",
        "Tokens for equal loss",
        "The variant's tokens over the control's, at the higher of their final losses; below 1 is "
        "better",
    ),
    Column("compute", "FLOPs for equal loss", "The same in counted operations"),
    Column("time", "Time for equal loss", "The same in time, at the measured speeds"),
)
COSTS = (
    Column("speed", "Tokens per second", "Median of its measurement, and times the control's"),
    Column("flops", "FLOPs per token", "Forward and backward, a multiply-add counted as two"),
    Column("memory", "Peak memory", "The highest in training, and times the control's"),
    Column("cache", "Cache per token", "Bytes that decoding keeps for each token"),
    Column("parameters", "Parameters", "All of them, and the change from the control"),
    Column("mlp", "MLP width", "Solved so that the parameters are equal"),
    Column("peak_lr", "Peak learning rate", "And where it comes from"),
)


def results(rows: list[Row]) -> list[Column]:
    """Returns the columns of results: equal compute only where schedules differ in it."""
    needed = any(row["equal_compute"] for row in rows)
    return [column for column in RESULTS if needed or column.key != "equal_compute"]


def table(rows: list[Row]) -> list[list[Cell]]:
    """Returns the cells of every row; the interval bars of a column share one scale."""
    scales = {key: _reach(rows, key) for key in ("difference", "equal_time", "equal_compute")}
    keys = [column.key for column in (*results(rows), *COSTS)]
    return [[cell for cell in _row(row, scales) if cell.key in keys] for row in rows]


def _reach(rows: list[Row], key: str) -> float:
    """Returns the largest distance from zero of any interval of the column, in nats."""
    pairs = [row[key] for row in rows if row[key]]
    limits = [abs(pair[end]) for pair in pairs for end in ("low", "high") if pair[end] is not None]
    return max(limits, default=1.0) or 1.0


def _row(row: Row, scales: dict[str, float]) -> list[Cell]:
    """Returns one cell per entry of [`RESULTS`][], then of [`COSTS`][]."""
    return [
        _loss(row),
        _difference("difference", row, scales["difference"]),
        _trend(row),
        _difference("equal_time", row, scales["equal_time"]),
        _difference("equal_compute", row, scales["equal_compute"]),
        *(_equal_loss(*pair, row) for pair in zip(*EQUAL_LOSS, strict=True)),
        _cost("speed", row, "tokens_per_second", "speed_ratio"),
        _cost("flops", row, "flops_per_token", "flops_ratio"),
        _cost("memory", row, "peak_memory_bytes", "memory_ratio", "B"),
        _cost("cache", row, "cache_bytes_per_token", "cache_ratio", "B"),
        _parameters(row),
        Cell("mlp", f"{row['intermediate_size']:,}", row["intermediate_size"]),
        _peak(row),
    ]


def _loss(row: Row) -> Cell:
    runs = f"{len(row['seeds'])} run{'s' * (len(row['seeds']) > 1)}"
    lines = [runs if row["run_stderr"] is None else f"± {row['run_stderr']:.3f}, {runs}"]
    if row["bits_per_byte"] is not None:
        lines.append(f"{row['bits_per_byte']:.3f} bits per byte")
    if row["diverged"]:
        lost = len(row["diverged"])
        lines.append(f"{lost} of {lost + len(row['seeds'])} runs diverged")
    return Cell("loss", f"{row['loss']:.3f}", row["loss"], "\n".join(lines))


def _difference(key: str, row: Row, half_scale: float) -> Cell:
    pair = row[key]
    if row["is_control"]:
        return Cell(key, DASH, 0.0, note="the control")
    if pair is None:
        too_slow = key != "difference" and row["difference"] is not None
        note = "its first budget took more than the control's run" if too_slow else "no control"
        return Cell(key, DASH, None, note=note)
    if pair["low"] is None:
        note = "no replicate, no interval, no verdict"
        return Cell(key, signed(pair["mean"]), pair["mean"], "no interval", note=note)
    place = [50 + 48 * pair[end] / half_scale for end in ("low", "mean", "high")]
    bar = (round(place[0], 1), round(place[1], 1), round(place[2], 1), 50.0)
    interval = f"{signed(pair['low'])} to {signed(pair['high'])}\n"
    interval += WORDS[pair["answer"]]
    return Cell(
        key, signed(pair["mean"]), pair["mean"], interval, status=STATUS[pair["answer"]], bar=bar
    )


def _trend(row: Row) -> Cell:
    trend = row["trend"]
    if trend is None:
        return Cell("trend", DASH, None, note="the control" if row["is_control"] else "not known")
    words, _, more = trend["words"].partition(" (")
    slope = f"{signed(trend['per_doubling'])} a doubling\nof the tokens"
    return Cell("trend", words, trend["per_doubling"], slope, note=more.rstrip(")"))


def _equal_loss(key: str, cost: str, row: Row) -> Cell:
    if row["is_control"]:
        return Cell(key, ratio(1.0), 1.0, note="by definition")
    if row["equal_loss"] is None:
        note = "no control" if row["difference"] is None else "one budget makes no curve"
        return Cell(key, DASH, None, note=note)
    found = row["equal_loss"][cost]
    if found["bound"]:
        text, value = f"{found['bound']}\N{NO-BREAK SPACE}{ratio(found['limit'])}", found["limit"]
    else:
        text, value = ratio(found["value"]), found["value"]
    span = limits(found["low"], found["high"]) or "beyond the curves at both ends"
    return Cell(key, text, value, span if found["interval"] else "no interval")


def _cost(key: str, row: Row, field: str, relative: str, unit: str = "") -> Cell:
    times = row.get(relative)
    shown = "" if times is None or row["is_control"] else ratio(times)
    return Cell(key, si(row[field], unit), row[field], shown)


def _peak(row: Row) -> Cell:
    """Returns the peak with the mean rate of the final weights' steps, in which schedules of
    one peak differ.
    """
    lines = [row["peak_lr_source"]]
    if row["mean_lr"] is not None:
        lines.append(f"mean {row['mean_lr']:.3g}")
    return Cell("peak_lr", f"{row['peak_lr']:.3g}", row["peak_lr"], "\n".join(lines))


def _parameters(row: Row) -> Cell:
    relative = row.get("parameters_ratio")
    shown = "" if relative is None or row["is_control"] else per_cent(relative - 1)
    return Cell("parameters", f"{row['parameters']:,}", row["parameters"], shown)
