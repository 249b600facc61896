"""Numbers as people read them: signs, SI prefixes, durations, lists."""

from __future__ import annotations

from collections.abc import Mapping

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
NUMBERS = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"]


def signed(value: float, digits: int = 3) -> str:
    """``+0.012`` or ``−0.012``, with a true minus sign; no sign where it rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return (MINUS if value < 0 else "+") + text


def amount(value: float, digits: int = 3) -> str:
    """The size of a difference, never rounded to nothing."""
    return f"{abs(value):.{digits}f}" if abs(value) >= 0.5 * 10**-digits else f"{abs(value):.1e}"


def ratio(value: float) -> str:
    """``0.62×``; three digits where it matters, none after a hundred."""
    return (f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}") + TIMES


def per_cent(value: float) -> str:
    """A relative change, e.g. ``+1.2%``."""
    return signed(100 * value, 1) + "%"


def si(value: float, unit: str = "") -> str:
    """Three significant digits with an SI prefix: ``1.05M``, ``412 MB``."""
    gap = "\N{NO-BREAK SPACE}" if unit else ""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{gap}{prefix}{unit}"
    return f"{value:.3g}{gap}{unit}"


def duration(seconds: float) -> str:
    """``42 s``, ``6.5 min`` or ``3.2 h``."""
    unit, size = time_unit(seconds)
    return f"{seconds / size:.3g}\N{NO-BREAK SPACE}{unit}"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which a time reads best, and its seconds."""
    if seconds < 120:
        return "s", 1.0
    return ("min", 60.0) if seconds < 7200 else ("h", 3600.0)


def count(number: int, noun: str) -> str:
    """``Seven ways``, ``One seed``, ``12 ways``."""
    word = NUMBERS[number] if number < len(NUMBERS) else str(number)
    return f"{word} {noun}{'' if number == 1 else 's'}"


def runs_a_variant(runs: Mapping[str, int], control: str) -> str:
    """``2 runs a variant``, ``2 to 4 runs a variant (6 of the control)``, from runs by variant."""
    theirs = runs.get(control, 0)
    others = [number for label, number in runs.items() if label != control] or [theirs]
    least, most = min(others), max(others)
    text = f"{least if least == most else f'{least} to {most}'} run{'s' * (most > 1)} a variant"
    return text if theirs in (0, least, most) else f"{text} ({theirs} of the control)"


def listed(items: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)
