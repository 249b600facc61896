"""Everything that needs the control: differences, trends, ratios, and what more runs would show."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from softmap.report import stats
from softmap.report.answers import Answer
from softmap.report.factor import factors
from softmap.report.family import Family, at, counts, position_losses, seconds, spent, windows
from softmap.report.planning import Design, more_for_equality, more_runs, visible_difference
from softmap.report.ratios import ratios
from softmap.report.speed import log_error
from softmap.report.trend import trends

Row = dict[str, Any]
KEYS = (
    "difference",
    "text_stderr_of_difference",
    "more_runs",
    "trend",
    "equal_time",
    "equal_compute",
    "equal_loss",
    "compute_factor",
)


def add_differences(table: list[Row], family: Family) -> None:
    """Add every number that needs the control to the rows of the other variants."""
    control, *others = table
    rows = {row["variant"]: row for row in others}
    final = family.compare(family.final)
    finals = final.answers()
    for label, answer in finals.items():
        rows[label]["difference"] = answer.as_dict() | {"p": final.p(label)}
        rows[label]["more_runs"] = _more(family, answer)
        rows[label]["text_stderr_of_difference"] = _text_error(family, label)
    for index in range(len(family.tokens)):
        found = family.compare(family.each(lambda _, y, n=index: y[:, n]))  # type: ignore[misc]
        for label, answer in found.answers().items():
            rows[label]["budgets"][index]["difference"] = answer.as_dict()
    _add_by_position(rows, family)
    for label, answer in _equal_time(family).items():
        rows[label]["equal_time"] = answer.as_dict()
    for label, answer in _equal_compute(family).items():
        rows[label]["equal_compute"] = answer.as_dict()
    for label, trend in trends(family, finals).items():
        rows[label]["trend"] = trend
    _add_ratios(rows, control, family, finals)


def _add_ratios(
    rows: dict[str, Row], control: Row, family: Family, finals: dict[str, Answer]
) -> None:
    for label, factor in factors(family, finals).items():
        cost = rows[label]["flops_ratio"]
        rows[label]["compute_factor"] = {
            key: None if value is None else value / cost for key, value in factor.items()
        }
    for label, ratio in ratios(family).items():
        row = rows[label]
        error = log_error(row, control, family.question.level, len(rows))
        row["equal_loss"] = {
            "tokens": ratio.times(1.0),
            "flops": ratio.times(row["flops_ratio"]),
            "time": ratio.times(1 / row["speed_ratio"], error or 0.0),
        }


def _more(family: Family, answer: Answer) -> Row | None:
    """Returns how many more runs of each variant and of the control an open question needs."""
    if answer.run_stderr is None or answer.df is None:
        return None
    design, sd, question = _design(family, answer), _single_sd(answer), family.question
    return {
        "for_difference": more_runs(design, sd, question.difference, question.power),
        "for_equality": more_for_equality(design, sd, question.margin, question.power),
        "visible_difference": visible_difference(design, sd, question.power),
    }


def _design(family: Family, answer: Answer) -> Design:
    others = max(len(family.trials) - 1, 1)
    level = family.question.level
    return Design(answer.runs, answer.control_runs, answer.df or 1.0, others, level)


def _single_sd(answer: Answer) -> float:
    """Returns the standard deviation between runs that gives the answer its standard error."""
    return (answer.run_stderr or 0.0) / sqrt(1 / answer.runs + 1 / answer.control_runs)


def _text_error(family: Family, label: str) -> float | None:
    """Returns the standard error of the difference over held-out text, for these very runs."""
    gap = windows(family.trials[label]) - windows(family.trials[family.control])
    variance = stats.block_variance(gap)[0]
    return sqrt(variance) if np.isfinite(variance) else None


def _equal_time(family: Family) -> dict[str, Answer]:
    """Returns the differences where a variant may train only as long as the control did.

    Each run's loss is read between its decayed points at the control's time. A variant that was
    done sooner is judged by its final loss (which favours the control); one whose first budget took
    longer than the control's whole run has no value.
    """
    times = {v: seconds(trials, family.tokens) for v, trials in family.trials.items()}
    allowed = float(times[family.control][-1])
    values = {
        label: at(allowed, times[label], losses_RN) if label != family.control else losses_RN[:, -1]
        for label, losses_RN in family.curves.items()
        if times[label][0] <= allowed
    }
    return family.compare(values).answers()


def _equal_compute(family: Family) -> dict[str, Answer]:
    """Returns the differences at equal total compute, where a schedule spends more tokens than its
    budgets have; none where no schedule does.

    Each run's loss is read between its decayed points at the operations that the control spent on
    all of its own; one that had none by then has no value.
    """
    tokens = {v: spent(trials) for v, trials in family.trials.items()}
    if all(np.array_equal(found, family.tokens) for found in tokens.values()):
        return {}
    costs = {v: n * family.trials[v][0].result["flops_per_token"] for v, n in tokens.items()}
    allowed = float(costs[family.control][-1])
    values = {
        label: at(allowed, costs[label], losses_RN)
        for label, losses_RN in family.curves.items()
        if costs[label][0] <= allowed
    }
    return family.compare(values).answers()


def _add_by_position(rows: dict[str, Row], family: Family) -> None:
    context = next(iter(family.trials.values()))[0].budgets[-1].losses_WT.shape[1]
    edges = stats.position_edges(context)
    binned = {v: position_losses(trials, edges) for v, trials in family.trials.items()}
    for index in range(len(edges) - 1):
        answers = family.compare({v: y[:, index] for v, y in binned.items()}).answers()
        for label, answer in answers.items():
            rows[label]["by_position"][index]["difference"] = answer.as_dict()


def statistics(family: Family, table: list[Row]) -> Row:
    """Returns how the answers were computed: what the page says of its method."""
    question, check, pool = family.question, family.check, family.spreads.pooled
    others = [label for label in family.trials if label != family.control]
    seen = {
        row["variant"]: row["more_runs"]["visible_difference"] for row in table if row["more_runs"]
    }
    pooled = [value for label, value in seen.items() if label not in check.apart]
    return {
        "level": question.level,
        "margin": question.margin,
        "difference": question.difference,
        "power": question.power,
        "comparisons": len(others),
        "runs": counts(family.trials),
        "earlier_runs": {label: len(found) for label, found in family.earlier.items()},
        "resolved": family.resolved,
        "pooled_sd": None if pool is None else pool.stderr,
        "pooled_df": None if pool is None else pool.df,
        "pooling_p": check.p,
        "pooling_visible_ratio": check.visible,
        "apart": list(check.apart),
        "speed_error": all(row["speed_rounds"] for row in table),
        "visible_difference": max(pooled or seen.values(), default=None),
        "visible_apart": {label: seen[label] for label in check.apart if pooled and label in seen},
    }
