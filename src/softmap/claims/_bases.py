"""The recipes that claims share: a base is trained once for each variant and seed, whoever asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Base:
    """A recipe that comes with softmap, with other values: dotted keys, YAML text."""

    name: str
    says: str
    settings: Mapping[str, str] = field(default_factory=dict)
    recipe: str = "demo"


SMALL = Base("small", "the demo's recipe: five budgets, ten tokens a parameter")
