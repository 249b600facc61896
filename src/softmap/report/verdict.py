"""The verdict in words, which claims no more than the answers."""

from __future__ import annotations

from typing import Any

from softmap.report.answers import EQUAL, HIGHER, LOWER, STATUS, UNKNOWN, UNRESOLVED
from softmap.report.caveats import caveats
from softmap.report.load import Run
from softmap.report.words import amount, count, limits, listed, ratio, runs_a_variant, si, signed

Row = dict[str, Any]
ORDER = (LOWER, HIGHER, EQUAL, UNRESOLVED, UNKNOWN)


def verdict(run: Run, rows: list[Row], statistics: Row) -> Row:
    """Returns ``headline``, a point per compared variant, what is ``incomplete``, and the
    ``caveats``.

    A variant is lower or higher where its simultaneous interval excludes zero, equal where both
    one-sided tests put it within the margin; else it is not resolved, and the words say how many
    runs would show something. Without any replicate there is no verdict.
    """
    compared = [row for row in rows if row["difference"] is not None]
    compared.sort(key=lambda row: float(row["difference"]["mean"]))
    points = [_point(row, run, statistics) for row in compared]
    return {
        "headline": _headline(run, rows, compared, statistics),
        "points": points + _lost(run, rows),
        "incomplete": _incomplete(run),
        "caveats": caveats(run, rows, compared, statistics),
    }


def _headline(run: Run, rows: list[Row], compared: list[Row], statistics: Row) -> str:
    control = run.control
    if not any(row["is_control"] for row in rows):
        if run.diverged.get(control):
            return f"Every finished run of the control, {control}, diverged: nothing is compared."
        return (
            f"The control, {control}, has not finished, so no variant can be compared with it yet."
        )
    if run.labels == [control]:
        return f"There is only the control, {control}: nothing is compared."
    if not compared:
        return f"So far only the control, {control}, can be reported; nothing is compared yet."
    answers = {row["variant"]: row["difference"]["answer"] for row in compared}
    if set(answers.values()) == {UNKNOWN}:
        return (
            f"No verdict: nothing was repeated. Each variant differs from {control}, and how much "
            "of that is chance is not known."
        )
    groups = {word: [v for v, answer in answers.items() if answer == word] for word in ORDER}
    if not any(groups[word] for word in (LOWER, HIGHER, EQUAL)):
        return (
            f"Nothing is resolved at this size: {_names(groups[UNRESOLVED])} could neither be "
            f"shown to differ from the control, {control}, nor to equal it."
        )
    clauses = _clauses(groups, control, statistics["margin"])
    return f"Over {runs_a_variant(statistics['runs'], control)}, {'; '.join(clauses)}."


def _clauses(groups: dict[str, list[str]], control: str, margin: float) -> list[str]:
    name = f"the control, {control}"
    clauses = []
    for word in (LOWER, HIGHER):
        if groups[word]:
            verb = "ends" if len(groups[word]) == 1 else "end"
            clauses.append(f"{_names(groups[word])} {verb} with a {word} held-out loss than {name}")
            name = "the control"
    if groups[EQUAL]:
        verb = "equals" if len(groups[EQUAL]) == 1 else "equal"
        clauses.append(f"{_names(groups[EQUAL])} {verb} {name} within {margin:g} nats")
    if groups[UNRESOLVED]:
        verb = "is" if len(groups[UNRESOLVED]) == 1 else "are"
        clauses.append(f"{_names(groups[UNRESOLVED])} {verb} not resolved")
    if groups[UNKNOWN]:
        clauses.append(f"no verdict on {_names(groups[UNKNOWN])}, whose spread is not known")
    return clauses


def _names(names: list[str]) -> str:
    if len(names) <= 3:
        return listed(names)
    return listed([*names[:2], count(len(names) - 2, "other").lower()])


def _point(row: Row, run: Run, statistics: Row) -> Row:
    """Returns the sentence on one variant: its answer, its trend, its costs. The tag carries
    the trend.
    """
    found = row["difference"]
    sentences = [_quality(row, run.control, statistics), _trend(row), *_equal_loss(row)]
    sentences += [_time(row), _costs(row), _diverged(row)]
    return {
        "variant": row["variant"],
        "status": STATUS[found["answer"]],
        "tag": _tag(row, statistics),
        "text": " ".join(sentence for sentence in sentences if sentence),
    }


def _tag(row: Row, statistics: Row) -> str:
    """Returns the answer in two or three words, or the trend where one is known."""
    if row["trend"]:
        return str(row["trend"]["words"]).partition(" (")[0]
    return {
        LOWER: "lower loss",
        HIGHER: "higher loss",
        EQUAL: f"equal within {statistics['margin']:g}",
        UNRESOLVED: "not resolved",
        UNKNOWN: "no verdict",
    }[row["difference"]["answer"]]


def _quality(row: Row, control: str, statistics: Row) -> str:
    found, level = row["difference"], f"{100 * statistics['level']:g}%"
    if found["answer"] == UNKNOWN:
        return (
            f"{signed(found['mean'])} nats per token compared with {control} in "
            f"{count(found['runs'], 'run').lower()}: no verdict, since no spread between runs is "
            "known."
        )
    limits = f"{level} interval {signed(found['low'])} to {signed(found['high'])}"
    if found["answer"] == EQUAL:
        return f"Equal to {control} within {statistics['margin']:g} nats per token ({limits})."
    if found["answer"] == UNRESOLVED:
        mean = signed(found["mean"])
        return f"Not resolved: {mean} nats per token, {limits}. {_more(row, statistics)}"
    word = "below" if found["answer"] == LOWER else "above"
    small = max(abs(found["equal_low"]), abs(found["equal_high"])) < statistics["margin"]
    less = f", yet by less than {statistics['margin']:g}" if small else ""
    mean = amount(found["mean"])
    return f"Held-out loss {mean} nats per token {word} {control}{less} ({limits})."


def _more(row: Row, statistics: Row) -> str:
    """Returns what further runs would show."""
    more, asked = row["more_runs"], statistics["difference"]
    n, equal = more["for_difference"], more["for_equality"]
    if n:
        runs = count(n, "more run").lower()
        return f"About {runs} a variant would show a difference of {asked:g}."
    if n is None:
        return f"More than ten thousand runs would be needed to show a difference of {asked:g}."
    runs = "more runs than can be made" if equal is None else f"about {equal} more runs a variant"
    return (
        f"So many runs find a difference of {asked:g} in {100 * statistics['power']:g}% of cases; "
        f"{runs} would show equality within {statistics['margin']:g}."
    )


def _trend(row: Row) -> str:
    trend = row["trend"]
    if trend is None:
        return ""
    slope = f"{signed(trend['low'])} to {signed(trend['high'])} nats a doubling of the tokens"
    return f"Trend: {trend['words']} ({slope})."


def _equal_loss(row: Row) -> list[str]:
    """Returns sentences on the tokens at equal loss and on the fitted factor, where the difference
    is resolved.
    """
    ratios, sentences = row["equal_loss"], []
    if ratios is None or row["difference"]["answer"] not in (LOWER, HIGHER):
        return []
    tokens = ratios["tokens"]
    span = limits(tokens["low"], tokens["high"]) or "the interval leaves the curves at both ends"
    span = f" ({span})" if tokens["interval"] else ""
    if tokens["bound"]:
        size = {"<": "less", ">": "more"}[tokens["bound"]]
        sentences.append(f"At equal loss {size} than {ratio(tokens['limit'])} the tokens{span}.")
    else:
        sentences.append(f"At equal loss {ratio(tokens['value'])} the tokens{span}.")
    factor = row["compute_factor"]
    if factor and factor["value"] and factor["low"] is not None:
        high = "no limit seen" if factor["high"] is None else f"{factor['high']:.2f}"
        sentences.append(
            f"By the fitted curve it is worth {ratio(factor['value'])} the control's compute "
            f"({factor['low']:.2f} to {high})."
        )
    return sentences


def _time(row: Row) -> str:
    """Returns what the difference becomes if a slower variant gets no more time than the
    control.
    """
    pair = row["equal_time"]
    if row["speed_ratio"] is None or row["speed_ratio"] >= 0.98:
        return ""
    if pair is None:
        return "It is too slow for a comparison at equal training time."
    if pair["low"] is None:
        return f"At equal training time {signed(pair['mean'])}."
    limits = f"{signed(pair['mean'])}, {signed(pair['low'])} to {signed(pair['high'])}"
    words = {LOWER: "it is ahead", HIGHER: "it is behind", EQUAL: "it is level"}
    word = words.get(pair["answer"], "nothing is resolved")
    return f"At equal training time {word} ({limits})."


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


def _diverged(row: Row) -> str:
    lost = len(row["diverged"])
    return f"{lost} of {lost + len(row['seeds'])} runs diverged." if lost else ""


def _lost(run: Run, rows: list[Row]) -> list[Row]:
    """Returns a point for each variant whose runs all diverged."""
    left = {row["variant"] for row in rows}
    return [
        {
            "variant": label,
            "status": "worse",
            "tag": "diverged",
            "text": f"{len(seeds)} of {len(seeds)} runs diverged, first at step "
            f"{si(min(found['step'] for found in seeds.values()))}: it has no loss to compare.",
        }
        for label, seeds in run.diverged.items()
        if label not in left
    ]


def _incomplete(run: Run) -> str | None:
    if not run.missing:
        return None
    several = len(run.declared) > len(run.labels)
    names = [f"{label} (seed {seed})" if several else label for label, seed in run.missing]
    return f"This run is not complete. Not finished: {listed(names)}."
