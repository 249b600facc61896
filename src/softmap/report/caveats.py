"""The reservations that a report states beside its verdict."""

from __future__ import annotations

from typing import Any

from softmap.report.answers import UNKNOWN
from softmap.report.load import Run
from softmap.report.words import count, listed, per_cent

Row = dict[str, Any]


def caveats(run: Run, rows: list[Row], compared: list[Row], statistics: Row) -> list[str]:
    """Returns one or two sentences for each reservation that this run needs."""
    notes = _run_notes(run)
    if compared:
        notes += [_runs_note(compared), *_sight(compared, statistics)]
        notes += _spread_note(statistics)
        notes += [run.info["speed_note"]] if run.info.get("speed_note") else []
    lost = [row for row in rows if row["diverged"]]
    if lost:
        names = [f"{_lost(row)} of {row['variant']}" for row in lost]
        notes.append(
            f"Diverged and not in the means: {listed(names)}. The means are of the others alone."
        )
    return notes + _peak_note(rows) + _size_note(compared)


def _lost(row: Row) -> str:
    return f"{len(row['diverged'])} of {len(row['diverged']) + len(row['seeds'])} runs"


def _run_notes(run: Run) -> list[str]:
    """Returns how several runs on one page differ."""
    differences = list(run.info.get("differences") or [])
    if not differences:
        return []
    return [
        f"The runs differ in {listed(differences)}: a difference between variants of "
        "different runs can come from that as well."
    ]


def _runs_note(compared: list[Row]) -> str:
    if all(row["difference"]["answer"] == UNKNOWN for row in compared):
        return (
            "Nothing was repeated, so the variation by initialisation, data order and rounding is "
            "not known. In small models it moved single runs by a few hundredths to a few tenths "
            "of a nat. Two runs of the control would give a first estimate for all variants."
        )
    return (
        "The intervals cover the variation between runs (initialisation, data order, rounding) on "
        "this held-out text; on other text all losses can differ, and differences a little."
    )


def _sight(compared: list[Row], statistics: Row) -> list[str]:
    """Returns the smallest difference that this run could have detected, in words."""
    seen = statistics["visible_difference"]
    if seen is None:
        return []
    many = statistics["comparisons"]
    family = f", with {count(many, 'comparison').lower()} corrected as one family" * (many > 1)
    apart = [f"{value:.2g} for {label}" for label, value in statistics["visible_apart"].items()]
    return [
        f"This run finds a difference of {seen:.3f} nats in {100 * statistics['power']:g}% of "
        f"cases{family}; smaller ones will mostly be missed."
        + f" Variants with a spread of their own need another: {listed(apart)}."
        * bool(apart)
    ]


def _spread_note(statistics: Row) -> list[str]:
    sd, ratio = statistics["pooled_sd"], statistics["pooling_visible_ratio"]
    notes = []
    if sd is not None:
        text = (
            f"The standard deviation between runs is {sd:.3f} nats, pooled with "
            f"{statistics['pooled_df']} degrees of freedom"
        )
        if statistics["pooling_p"] is None:
            text += "; whether all variants share it could not be checked."
        else:
            size = "100" if ratio is None else f"{ratio:.1f}"
            text += (
                f" (equal spreads: p = {statistics['pooling_p']:.2f}; only a variant with {size} "
                "times the standard deviation of the others would probably be noticed)."
            )
        notes.append(text)
    if statistics["resolved"]:
        notes.append(
            "Seeds were added by Stein's two-stage rule for intervals of at most "
            f"\N{PLUS-MINUS SIGN} {statistics['resolved']:g}: spread and degrees of freedom are "
            "those of the first stage, the means are of all runs."
        )
    if statistics["apart"]:
        notes.append(
            f"The spread of {listed(statistics['apart'])} differs from that of the others: the "
            "interval is from its own runs alone (Welch's)."
        )
    return notes


def _peak_note(rows: list[Row]) -> list[str]:
    tuned = [row["variant"] for row in rows if row["peak_lr_source"] == "tuned"]
    untuned = [row for row in rows if row["peak_lr_source"] != "tuned"]
    if not untuned:
        return []
    if tuned:
        rates = [f"{row['variant']} ({row['peak_lr']:g})" for row in untuned]
        return [
            f"Unequal tuning: the peak learning rate was tuned for {listed(tuned)}, but not for "
            f"{listed(rates)}, which took it from the recipe or from a default. Tuned variants "
            "have an unfair advantage; --tune finds the missing peaks."
        ]
    rates = sorted({f"{row['peak_lr']:g}" for row in untuned}, key=float)
    same = f"all took {rates[0]}" if len(rates) == 1 else f"they took {listed(rates)}"
    return [
        f"The peak learning rate was not tuned for any variant; {same}, from the recipe or from a "
        "default. Another peak can change the order."
    ]


def _size_note(compared: list[Row]) -> list[str]:
    unequal = [row for row in compared if abs(row["parameters_ratio"] - 1) > 0.01]
    names = [f"{row['variant']} ({per_cent(row['parameters_ratio'] - 1)})" for row in unequal]
    return [f"Parameters differ from the control's by more than 1%: {listed(names)}."] * bool(names)
