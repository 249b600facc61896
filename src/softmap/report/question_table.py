"""The answers as words and numbers: lines for a terminal, cells of a page's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from softmap.report.words import signed

_WORDS = {
    "lower": "lower", "higher": "higher", "equal": "equal", "unresolved": "not resolved",
    "unknown": "no verdict",
}  # fmt: skip


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of each suite: one for each model and headline, then the means under each
    set of conditions.
    """
    for name, suite in found["suites"].items():
        yield f"{suite['title']} ({name})"
        yield suite["asks"]
        for cell in headlines(suite):
            yield from _headline(title(suite, cell["measure"]), cell, found["control"])
        yield from _conditions(suite, found["labels"])
        yield ""


def title(suite: Mapping[str, Any], name: str) -> str:
    """Returns the title of a measure's headline, with its conditions."""
    measure = next(one for one in suite["measures"] if one["name"] == name)
    return f"{measure['title']}{', ' if measure['at'] else ''}{condition(measure['at'])}"


def headlines(suite: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the cells that are over all instances, one for each measure."""
    return [cell for cell in suite["cells"] if cell["at"] is None]


def _headline(title: str, cell: Mapping[str, Any], control: str) -> Iterator[str]:
    yield f"  {title}"
    width = max(len(label) for label in cell["models"])
    for label, numbers in cell["models"].items():
        yield f"    {label:<{width}}  {value(numbers)}  {_against(cell, label, control)}".rstrip()


def value(numbers: Mapping[str, Any]) -> str:
    """Returns the mean with its error: between runs, or over the instances of a single one."""
    runs = list(numbers["runs"].values())
    if numbers["run_stderr"] is not None:
        return f"{short(numbers['mean'])} ± {short(numbers['run_stderr'])} ({len(runs)} runs)"
    low, high = runs[0]["low"], runs[0]["high"]
    between = "" if low is None else f" [{short(low)}, {short(high)}]"
    return f"{short(numbers['mean'])}{between} ({runs[0]['items']} instances)"


def _against(cell: Mapping[str, Any], label: str, control: str) -> str:
    if label == control and cell["differences"]:
        return "the control"
    difference = cell["differences"].get(label)
    return verdict(difference) if difference else ""


def verdict(difference: Mapping[str, Any]) -> str:
    """Returns the difference with its interval and the answer in words."""
    text = signed(difference["mean"], 4)
    if difference["low"] is not None:
        text += f" [{signed(difference['low'], 4)}, {signed(difference['high'], 4)}]"
    return f"{text}: {_WORDS[difference['answer']]}"


def _conditions(suite: Mapping[str, Any], labels: list[str]) -> Iterator[str]:
    """Yields means under each set of conditions, the models side by side, where they are not too
    many for a terminal.
    """
    by_measure: dict[str, list[Mapping[str, Any]]] = {}
    for cell in suite["cells"]:
        if cell["at"] is not None:
            by_measure.setdefault(cell["measure"], []).append(cell)
    titles = {one["name"]: one["title"] for one in suite["measures"]}
    shown = [label for label in labels if any(label in c["models"] for c in suite["cells"])]
    for measure, cells in by_measure.items():
        if not 1 < len(cells) <= 24:
            continue
        conditions = [condition(cell["at"]) for cell in cells]
        width = max(map(len, conditions))
        yield f"  {titles[measure]}"
        yield f"    {'':<{width}}  " + "  ".join(f"{label[:20]:>10}" for label in shown)
        for text, cell in zip(conditions, cells, strict=True):
            means = [cell["models"].get(label) for label in shown]
            numbers = [
                f"{'-' if one is None else short(one['mean']):>{max(10, len(label[:20]))}}"
                for one, label in zip(means, shown, strict=True)
            ]
            yield f"    {text:<{width}}  " + "  ".join(numbers)


def direction(suite: Mapping[str, Any], cell: Mapping[str, Any], label: str) -> str:
    """Returns the mark of a difference: ``better`` or ``worse`` by the measure's direction,
    ``equal``, or nothing.
    """
    difference = cell["differences"].get(label)
    if difference is None:
        return ""
    answer = difference["answer"]
    good = next(one["better"] for one in suite["measures"] if one["name"] == cell["measure"])
    if answer in ("lower", "higher"):
        return "" if not good else "better" if answer == good else "worse"
    return "equal" if answer == "equal" else ""


def condition(at: Mapping[str, Any]) -> str:
    """Returns conditions as text: ``needles 4, asked 1``."""
    return ", ".join(f"{name} {value}" for name, value in at.items())


def short(number: float) -> str:
    """Returns a number with four significant digits."""
    return f"{number:.4g}"
