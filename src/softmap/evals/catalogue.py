"""Suites by name: ``needles``, ``needles:faithful``, ``lm_eval:TASK,TASK``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from softmap.errors import SoftmapError, nearest_or_all, shown
from softmap.evals.question import Suite


def names() -> list[str]:
    """Returns the names of all suites, which are those of their files."""
    files = (Path(__file__).parent / "suites").glob("[a-z]*.py")
    return sorted(file.stem for file in files)


def suite(spec: str) -> Suite:
    """Returns the suite that ``NAME`` or ``NAME:ARGUMENT`` means.

    Raises ``SoftmapError`` for an unknown one, with the nearest name.
    """
    name, _, argument = spec.partition(":")
    known = names()
    if name not in known:
        raise SoftmapError(f"no suite {shown(name)}{nearest_or_all(name, known)}")
    found: Suite = import_module(f"softmap.evals.suites.{name}").SUITE.of(argument)
    return found
