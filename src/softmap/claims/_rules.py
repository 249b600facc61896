"""From differences to verdicts: fixed before anything is run, pure functions of the rows.

A row compares one arm with one other, with an interval ([`softmap.report.answers`][]). With z the
value of no difference (0, for ratios 1) and z - m, z + m the limits of the margin::

    expected      reproduced          contradicted    not seen at this scale
    lower         high < z            low > z         both one-sided limits within the margin
    higher        low > z             high < z        the same
    equal         within the margin   low > z or high < z, and not within the margin
    at most       upper limit < z + m                 low > z
    at least      lower limit > z - m                 high < z

Whatever is none of these is not resolved. An arm with fewer than two runs has no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REPRODUCED, NOT_SEEN = "reproduced", "not seen at this scale"
CONTRADICTED, NOT_RESOLVED = "contradicted", "not resolved"
NOT_TESTED, NO_VERDICT = "not tested", "no verdict"
VERDICTS = (REPRODUCED, NOT_SEEN, CONTRADICTED, NOT_RESOLVED, NOT_TESTED, NO_VERDICT)


@dataclass(frozen=True)
class ArmRow:
    """The difference ``arm`` minus ``against``, or their ratio.

    Attributes:
        low, high: the simultaneous limits, equal_low and equal_high the one-sided ones; infinite
            where the runs set none, and all None where no spread is known.
        runs: the number of runs of the arm and of the other one.
        lost: ``lower`` or ``higher`` where most of the arm's trainings diverged, which counts as
            that.
        what: the condition, where there are several.
    """

    arm: str
    against: str
    expects: str
    mean: float | None
    low: float | None
    high: float | None
    equal_low: float | None
    equal_high: float | None
    runs: tuple[int, int]
    margin: float
    zero: float = 0.0
    lost: str = ""
    what: str = ""

    @property
    def name(self) -> str:
        """The row's name in tables."""
        return f"{self.arm} {self.what}".strip()


@dataclass(frozen=True)
class Verdict:
    """One of ``VERDICTS``, and the sentence that says why."""

    word: str
    said: str


def of_row(row: ArmRow) -> str:
    """Returns the verdict on one row."""
    if row.lost:
        against = {
            "lower": ("higher", "at least", "equal"),
            "higher": ("lower", "at most", "equal"),
        }
        return CONTRADICTED if row.expects in against[row.lost] else REPRODUCED
    if min(row.runs) < 2 or row.low is None or row.high is None:
        return NO_VERDICT
    assert row.equal_low is not None and row.equal_high is not None
    above, below = row.low > row.zero, row.high < row.zero
    not_less = row.equal_low > row.zero - row.margin
    not_more = row.equal_high < row.zero + row.margin
    if row.expects in ("lower", "higher"):
        claimed, opposite = (below, above) if row.expects == "lower" else (above, below)
        if claimed:
            return REPRODUCED
        if not_less and not_more:
            return NOT_SEEN
    else:
        claimed = {"equal": not_less and not_more, "at most": not_more, "at least": not_less}[
            row.expects
        ]
        opposite = {"equal": above or below, "at most": above, "at least": below}[row.expects]
        if claimed:
            return REPRODUCED
    return CONTRADICTED if opposite else NOT_RESOLVED


def as_claimed(rows: Sequence[ArmRow]) -> Verdict:
    """Returns the verdict on all rows with an expectation.

    It is reproduced where all of them are; else contradicted where one is, else not seen where one
    is, else not resolved. One row without a verdict leaves the claim without one.
    """
    judged = [(row, of_row(row)) for row in rows if row.expects]
    if not judged:
        return Verdict(NO_VERDICT, "Nothing was compared.")
    order = (NO_VERDICT, CONTRADICTED, NOT_SEEN, NOT_RESOLVED, REPRODUCED)
    word = min((word for _, word in judged), key=order.index)
    return Verdict(word, _sentence(word, judged))


def _sentence(word: str, judged: Sequence[tuple[ArmRow, str]]) -> str:
    several = len({row.against for row, _ in judged}) > 1
    names: dict[str, list[str]] = {one: [] for one in VERDICTS}
    for row, own in judged:
        names[own].append(f"{row.name} beside {row.against}" if several else row.name)
    if word == NO_VERDICT:
        return (
            "The spread between runs is unknown (it takes two runs of each arm that differ): "
            f"{', '.join(names[NO_VERDICT])}."
        )
    if len(judged) == 1:
        row = judged[0][0]
        return f"{row.name} was expected {phrase(row)}: {word}."
    parts = [f"{len(names[REPRODUCED])} of {len(judged)} rows are as claimed"]
    for one in (CONTRADICTED, NOT_SEEN, NOT_RESOLVED):
        if names[one]:
            parts.append(f"{one}: {', '.join(names[one])}")
    return f"{'; '.join(parts)}."


def phrase(row: ArmRow) -> str:
    """Returns what was expected in words: ``lower than transformer++``."""
    link = {"equal": "to", "at most": "", "at least": ""}.get(row.expects, "than")
    return " ".join(f"{row.expects} {link} {row.against}".split())
