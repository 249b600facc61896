"""Numbers as people read them: signs, SI prefixes, durations, lists."""

from __future__ import annotations

from collections.abc import Mapping

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"]


def signed(value: float, digits: int = 3) -> str:
    """Returns ``+0.012`` or ``−0.012``, with a true minus sign; no sign where it rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+") + text


def amount(value: float, digits: int = 3) -> str:
    """Returns the size of a difference, with more digits where it would round to zero."""
    return f"{abs(value):.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{abs(value):.1e}"


def ratio(value: float) -> str:
    """Returns ``0.62×``; from a hundred on without decimals."""
    return (f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}") + TIMES


def per_cent(value: float) -> str:
    """Returns a relative change: ``+1.2%``."""
    return signed(100 * value, 1) + "%"


def si(value: float, unit: str = "") -> str:
    """Returns three significant digits with an SI prefix: ``1.05M``, ``412 MB``."""
    gap = "\N{NO-BREAK SPACE}" if unit else ""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{gap}{prefix}{unit}"
    return f"{value:.3g}{gap}{unit}"


def duration(seconds: float) -> str:
    """Returns ``42 s``, ``6.5 min`` or ``3.2 h``."""
    unit, size = time_unit(seconds)
    return f"{seconds / size:.3g}\N{NO-BREAK SPACE}{unit}"


def time_unit(seconds: float) -> tuple[str, float]:
    """Returns the unit in which a time is most readable, and its seconds."""
    if seconds < 120:
        return "s", 1.0
    return ("min", 60.0) if seconds < 7200 else ("h", 3600.0)


def limits(low: float | None, high: float | None) -> str:
    """Returns an interval in words: ``0.81 to 1.05``, ``at least 0.81`` or ``at most 1.05`` where
    the other end is not known, nothing where neither is.
    """
    if low is None:
        return "" if high is None else f"at most {high:.2f}"
    return f"at least {low:.2f}" if high is None else f"{low:.2f} to {high:.2f}"


def count(number: int, noun: str) -> str:
    """Returns ``Seven ways``, ``One seed`` or ``12 ways``."""
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {noun}{'' if number == 1 else 's'}"


def runs_a_variant(runs: Mapping[str, int], control: str) -> str:
    """Returns ``2 runs a variant`` or ``2 to 4 runs a variant (6 of the control)``, from runs by
    variant; ``2 runs`` if there is one variant alone.
    """
    theirs = runs.get(control, 0)
    others = [number for label, number in runs.items() if label != control] or [theirs]
    least, most = min(others), max(others)
    text = f"{least if least == most else f'{least} to {most}'} run{'s' * (most > 1)}"
    text += " a variant" * (len(runs) > 1)
    return text if theirs in (0, least, most) else f"{text} ({theirs} of the control)"


def listed(items: list[str]) -> str:
    """Returns ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
