"""The verdict in words, made from the numbers, never stronger than their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from softmap.report.words import amount, count, listed, per_cent, ratio, signed

Row = dict[str, Any]
STATUS = {-1: "better", 0: "none", 1: "worse"}


def verdict(
    rows: list[Row],
    control: str,
    missing: list[tuple[str, int]],
    seeds: int,
    differences: Sequence[str] = (),
) -> Row:
    """``headline``, a point per compared variant, what is ``incomplete``, and the ``caveats``.

    differences: what the runs differ in, where the rows are of several.

    A variant is called better or worse only where the 95 % interval of its paired difference lies
    on one side of zero; elsewhere the words are "no difference from the control seen at this
    scale".
    """
    compared = [row for row in rows if row["difference"] is not None]
    compared.sort(key=lambda row: float(row["difference"]["mean"]))
    paired = min((row["difference"]["seeds"] for row in compared), default=0)
    return {
        "headline": _headline(rows, compared, control, paired),
        "points": [_point(row, control) for row in compared],
        "incomplete": _incomplete(missing, seeds),
        "caveats": _run_notes(rows, compared, differences) + _caveats(rows, compared, paired),
    }


def _headline(rows: list[Row], compared: list[Row], control: str, paired: int) -> str:
    if not any(row["is_control"] for row in rows):
        return (
            f"The control, {control}, has not finished, so no variant can be compared with it yet."
        )
    if not compared:
        return f"So far only the control, {control}, can be reported; nothing is compared yet."
    groups = {sign: [r["variant"] for r in compared if _sign(r) == sign] for sign in STATUS}
    if not groups[-1] and not groups[1]:
        clause = f"no difference from the control, {control}, is seen at this scale for {{}}"
        return _opening(paired) + clause.format(_names(groups[0])) + "."
    return _opening(paired) + "; ".join(_clauses(groups, control)) + "."


def _opening(paired: int) -> str:
    return "In this single-seed run, " if paired == 1 else f"Over {paired} seeds, "


def _clauses(groups: dict[int, list[str]], control: str) -> list[str]:
    than = f" than the control, {control}"
    clauses = []
    for sign, word in ((-1, "lower"), (1, "higher")):
        if groups[sign]:
            verb = "ends" if len(groups[sign]) == 1 else "end"
            clauses.append(f"{_names(groups[sign])} {verb} with a {word} held-out loss{than}")
            than = " than the control"
    if groups[0]:
        clauses.append(f"for {_names(groups[0])} no difference is seen at this scale")
    return clauses


def _names(names: list[str]) -> str:
    if len(names) <= 3:
        return listed(names)
    return listed([*names[:2], count(len(names) - 2, "other").lower()])


def _point(row: Row, control: str) -> Row:
    sentences = [_quality(row, control), _tokens(row), _time(row), _costs(row)]
    return {
        "variant": row["variant"],
        "status": STATUS[_sign(row)],
        "tag": _tag(row),
        "text": " ".join(sentence for sentence in sentences if sentence),
    }


def _tag(row: Row) -> str:
    if _sign(row) == 0:
        return "no difference seen"
    word = "lower" if _sign(row) < 0 else "higher"
    return f"{word} in this run" if row["difference"]["seeds"] == 1 else f"{word} loss"


def _quality(row: Row, control: str) -> str:
    difference = row["difference"]
    if difference["low"] is None:
        return f"Held-out loss {row['loss']:.3f}; one held-out window gives no interval."
    limits = f"95% interval {signed(difference['low'])} to {signed(difference['high'])}"
    if _sign(row) == 0:
        return (
            f"No difference from the control seen at this scale: {signed(difference['mean'])} "
            f"nats per token, {limits}."
        )
    word = "below" if _sign(row) < 0 else "above"
    return f"Held-out loss {amount(difference['mean'])} nats per token {word} {control} ({limits})."


def _tokens(row: Row) -> str:
    tokens = row["token_ratio"]
    if tokens is None or _sign(row) == 0:
        return ""
    if tokens["bound"] == "<":
        return f"Fewer than {ratio(tokens['limit'])} the tokens reach the control's final loss."
    if tokens["bound"] == ">":
        return "It does not reach the control's final loss within its budgets."
    if tokens["value"] is None:
        return ""
    return f"About {ratio(tokens['value'])} the tokens reach the control's final loss."


def _time(row: Row) -> str:
    """What the difference becomes once a slower variant gets no more time than the control."""
    pair = row["equal_time"]
    if row["time_ratio"] is None or row["time_ratio"] <= 1.02:
        return ""
    if pair is None:
        return "It is too slow for a comparison at equal training time."
    if pair["low"] is None:
        return ""
    limits = f"{signed(pair['mean'])}, {signed(pair['low'])} to {signed(pair['high'])}"
    if pair["sign"] == 0:
        return f"At equal training time no difference is seen ({limits})."
    return f"At equal training time it is {'ahead' if pair['sign'] < 0 else 'behind'} ({limits})."


def _costs(row: Row) -> str:
    parts = [
        f"{ratio(row[key])} the {name}"
        for key, name in (
            ("speed_ratio", "tokens per second"),
            ("flops_ratio", "FLOPs per token"),
            ("memory_ratio", "peak memory"),
        )
        if row[key] is not None
    ]
    return f"Cost: {listed(parts)}." if parts else ""


def _incomplete(missing: list[tuple[str, int]], seeds: int) -> str | None:
    if not missing:
        return None
    names = [f"{label} (seed {seed})" if seeds > 1 else label for label, seed in missing]
    return f"This run is not complete. Not finished: {listed(names)}."


def _caveats(rows: list[Row], compared: list[Row], paired: int) -> list[str]:
    notes = []
    if compared:
        notes.append(_seed_note(paired))
    notes += _peak_note(rows) + _size_note(compared)
    if len(compared) > 4:
        notes.append(
            f"{count(len(compared), 'comparison')} are made, each with its own 95% interval: by "
            "chance alone about one interval in twenty misses the truth."
        )
    return notes


def _run_notes(rows: list[Row], compared: list[Row], differences: Sequence[str]) -> list[str]:
    """What several runs on one page have not in common."""
    notes = []
    if differences:
        notes.append(
            f"The runs differ in {listed(list(differences))}: a difference between variants of "
            "different runs can come from that as well."
        )
    control = any(row["is_control"] for row in rows)
    alone = [row["variant"] for row in rows if not row["is_control"] and row not in compared]
    if control and alone:
        notes.append(
            f"No seed in common with the control: nothing is subtracted for {listed(alone)}."
        )
    return notes


def _seed_note(paired: int) -> str:
    if paired == 1:
        return (
            "One seed per variant: the intervals cover only the choice of held-out text, not the "
            "luck of initialisation and data order. Other seeds can move a result by a few "
            "hundredths to a few tenths of a nat (0.03 to 0.4 was measured with models of about "
            "a million parameters), so a difference of that size may shrink or turn around."
        )
    few = " With so few seeds they are wide, and rightly so." if paired < 4 else ""
    return f"The intervals cover both the held-out text and {paired} seeds, paired.{few}"


def _peak_note(rows: list[Row]) -> list[str]:
    tuned = [row["variant"] for row in rows if row["peak_lr_source"] == "tuned"]
    untuned = [row for row in rows if row["peak_lr_source"] != "tuned"]
    if not untuned:
        return []
    if tuned:
        rates = [f"{row['variant']} ({row['peak_lr']:g})" for row in untuned]
        return [
            f"Unfair learning rates: the peak was tuned for {listed(tuned)}, but not for "
            f"{listed(rates)}, which took it from the recipe or from a default. Tuned variants "
            "have an advantage that is not theirs; --tune finds the missing peaks."
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


def _sign(row: Row) -> int:
    return int(row["difference"]["sign"])
