"""What a question is: it is put to one model at a time, and answers with one row an instance.

A row is a dict: ``measure`` (the name of one of the suite's), ``item`` (which instance: the same
number is the same instance for every model), ``value``, and any conditions beside (``depth=0.5``).
Everything else follows from the rows: means, intervals, comparisons, tables and pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.evals.subject import Subject
from softmap.evals.text import Text

Row = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number that the rows of a suite hold.

    Attributes:
        unit: ``"nats"``, ``"bits"``, ``"share"`` (between 0 and 1), or ``""``.
        better: ``"lower"``, ``"higher"``, or ``""`` where neither is.
        margin: differences within it count as equal.
        at: the conditions whose rows make the headline; by default all rows do.
    """

    name: str
    title: str
    unit: str = ""
    better: str = ""
    margin: float = 0.01
    at: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A measure drawn against the condition ``x``; with ``y`` a heat map over both."""

    measure: str
    x: str
    x_title: str
    caption: str = ""
    y: str | None = None
    y_title: str = ""
    log: bool = False


@dataclass(frozen=True)
class Setting:
    """What is the same for all models that are compared.

    Attributes:
        context: tokens that a model is asked with.
        vocabulary: ids below it are every model's.
        text: held-out text, where a suite reads some.
        judge: an endpoint that judges answers.
        include: a folder with tasks of one's own for lm_eval.
    """

    context: int
    vocabulary: int
    seed: int = 0
    text: Text | None = None
    judge: Any = None
    include: str | None = None
    tell: Callable[[str], None] = lambda _: None

    def generator(self, *numbers: int) -> np.random.Generator:
        """Random numbers that depend on the seed and these numbers alone."""
        return order.generator(self.seed, *numbers)

    def heldout(self) -> Text:
        """The text. Raises ``SoftmapError`` where there is none."""
        if self.text is None:
            raise SoftmapError("this suite reads held-out text: expected some, found none")
        return self.text


class Suite:
    """One question. A file of ``evals/suites`` has one, as ``SUITE``.

    Subclasses are frozen dataclasses: their fields are the sizes that [`quick`][] makes smaller.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    asks: ClassVar[str]  #: one sentence for people
    measures: ClassVar[tuple[Measure, ...]]
    pictures: ClassVar[tuple[Picture, ...]] = ()
    reads_text: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False  #: of a tokenizer
    least_context: ClassVar[int] = 0  #: tokens that a model must be able to read

    @classmethod
    def of(cls, argument: str) -> Suite:
        """The suite with what was written after its name and a colon (``""``: nothing)."""
        if argument:
            raise SoftmapError(f"suite {cls.name} takes no argument, found {argument!r}")
        return cls()

    def described(self) -> dict[str, Any]:
        """What a page says of it, and what comparing its answers needs, as plain data."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]
        return {
            "title": self.title,
            "asks": self.asks,
            "how": " ".join((type(self).__doc__ or "").split()),
            "settings": settings,
            "measures": [asdict(one) for one in self.measures],
            "pictures": [asdict(one) for one in self.pictures],
        }

    def quick(self) -> Suite:
        """The same with fewer and smaller instances: seconds on one core."""
        return self

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raise ``SoftmapError`` where this model cannot be asked; says the least that can."""
        if (self.reads_tokens or self.reads_text) and subject.tokenizer is None:
            raise SoftmapError(
                f"{subject.name}: suite {self.name} needs the model's tokenizer, found none in its "
                "folder"
            )
        at_least("context", setting.context, self.least_context, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """The answers of one model."""
        raise NotImplementedError


def at_least(what: str, found: int, needed: int, suite: str, subject: Subject) -> None:
    """Raise ``SoftmapError`` unless ``found`` of ``what`` are enough."""
    if found < needed:
        raise SoftmapError(
            f"{subject.name}: suite {suite} needs a {what} of at least {needed}, found {found}"
        )


def row(measure: str, item: int, value: float, **at: Any) -> Row:
    """One row."""
    return {"measure": measure, "item": int(item), "value": float(value), **at}
