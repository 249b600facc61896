"""What a question is: it is asked of one model at a time, and its answer is one row per instance.

A row is a dict: ``measure`` (the name of one of the suite's metrics), ``item`` (the instance: the
same number is the same instance for every model), ``value``, and any further conditions
(``depth=0.5``). Everything else follows from the rows: means, intervals, comparisons, tables and
pictures. Files keep the key ``measure`` for a metric's name.
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
class Metric:
    """A number that the rows of a suite hold.

    Attributes:
        unit: ``"nats"``, ``"bits"``, ``"share"`` (between 0 and 1), or ``""``.
        better: ``"lower"``, ``"higher"``, or ``""`` where neither is.
        margin: differences within it count as equal.
        at: the conditions of the rows that make the headline; by default all rows do.
    """

    name: str
    title: str
    unit: str = ""
    better: str = ""
    margin: float = 0.01
    at: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A metric drawn against the condition ``x``; with ``y`` a heat map over both."""

    metric: str
    x: str
    x_title: str
    caption: str = ""
    y: str | None = None
    y_title: str = ""
    log: bool = False


@dataclass(frozen=True)
class Setting:
    """The setting that all compared models share.

    Attributes:
        context: the context in tokens.
        vocabulary: the number of ids that every model has.
        seed: the seed of the instances.
        text: held-out text, if a suite reads some.
        judge: an endpoint that judges answers.
        include: a folder with the user's own tasks for lm_eval.
        tell: called with messages for the user.
    """

    context: int
    vocabulary: int
    seed: int = 0
    text: Text | None = None
    judge: Any = None
    include: str | None = None
    tell: Callable[[str], None] = lambda _: None

    def generator(self, *numbers: int) -> np.random.Generator:
        """Returns random numbers that depend on the seed and these numbers alone."""
        return order.generator(self.seed, *numbers)

    def heldout(self) -> Text:
        """Returns the text; raises ``SoftmapError`` if there is none."""
        if self.text is None:
            raise SoftmapError("this suite reads held-out text: expected some, found none")
        return self.text


class Suite:
    """A question. Each file of ``evals/suites`` has one, as ``SUITE``.

    Subclasses are frozen dataclasses: their fields are the sizes that [`quick`][] makes smaller.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    asks: ClassVar[str]  #: the question in one sentence
    metrics: ClassVar[tuple[Metric, ...]]
    pictures: ClassVar[tuple[Picture, ...]] = ()
    reads_text: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False  #: whether it needs the model's tokenizer
    least_context: ClassVar[int] = 0  #: tokens that a model must be able to read

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with the argument after its name and a colon (``""`` if there is
        none).
        """
        if argument:
            raise SoftmapError(f"suite {cls.name} takes no argument, found {argument!r}")
        return cls()

    def described(self) -> dict[str, Any]:
        """Returns the suite's description and what comparing its answers needs, as plain data."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]
        return {
            "title": self.title,
            "asks": self.asks,
            "how": " ".join((type(self).__doc__ or "").split()),
            "settings": settings,
            "measures": [asdict(one) for one in self.metrics],
            "pictures": [_drawn(one) for one in self.pictures],
        }

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances: seconds on one core."""
        return self

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raise ``SoftmapError`` if this model cannot be asked, with the least that would be
        enough.
        """
        if (self.reads_tokens or self.reads_text) and subject.tokenizer is None:
            raise SoftmapError(
                f"{subject.name}: suite {self.name} needs the model's tokenizer, found none in its "
                "folder"
            )
        at_least("context", setting.context, self.least_context, self.name, subject)

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields the answers of one model."""
        raise NotImplementedError


def _drawn(one: Picture) -> dict[str, Any]:
    found = asdict(one)
    return {"measure": found.pop("metric"), **found}


def at_least(what: str, found: int, needed: int, suite: str, subject: Subject) -> None:
    """Raise ``SoftmapError`` unless ``found`` is at least ``needed``."""
    if found < needed:
        raise SoftmapError(
            f"{subject.name}: suite {suite} needs a {what} of at least {needed}, found {found}"
        )


def row(metric: str, item: int, value: float, **at: Any) -> Row:
    """Returns one row."""
    return {"measure": metric, "item": int(item), "value": float(value), **at}
