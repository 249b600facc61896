"""What a claim is: a published sentence, and how it is put to the test at each scale.

All of it is data, written before anything is run. ``rule`` derives the verdict from the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from softmap.claims._bases import SMALL, TASK, Base
from softmap.claims._rules import ArmRow, Verdict, as_claimed

SCALES = {
    "cpu": "minutes to hours on two cores",
    "gpu": "one card",
    "paper": "the authors' setting",
}
CONTROL = "transformer++"

Expects = Literal["", "lower", "higher", "equal", "at most", "at least"]


@dataclass(frozen=True)
class Measure:
    """The number of a run that a study compares.

    Attributes:
        unit: ``nats``, ``share``, ``x`` (a ratio to the control's), or nothing.
        margin: differences (for a ratio: distances from 1) that count as none.
        better: which way is good, and so which way a diverged training counts.
    """

    title: str
    unit: str = "nats"
    margin: float = 0.01
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Arm:
    """A variant, and what the claim says of its number compared with that of ``against``.

    Attributes:
        expects: ``lower``, ``higher``, ``equal`` (within the margin), ``at most`` (not higher by
            the margin), ``at least``; nothing where it is only shown beside the others.
        against: another arm's label, by default the study's control.
        base: where it is trained, if not on the study's base.
    """

    variant: str
    expects: Expects = ""
    against: str | None = None
    label: str = ""
    base: Base | None = None

    @property
    def name(self) -> str:
        """The label, by default the variant."""
        return self.label or self.variant


@dataclass(frozen=True)
class Study:
    """Runs of a control and of arms, and a measure of each; subclasses define where it comes from.

    Attributes:
        one_model: whether it reads the first model of each variant alone.
    """

    measure: Measure
    arms: tuple[Arm, ...]
    control: str = CONTROL
    base: Base = SMALL
    kind: ClassVar[str]
    one_model: ClassVar[bool] = False

    @property
    def variants(self) -> dict[str, Arm]:
        """Every variant that takes part, by name, the control first."""
        control = {self.control: Arm(self.control)}
        return control | {arm.name: arm for arm in self.arms}

    @property
    def references(self) -> set[str]:
        """The names that others are compared with."""
        return {arm.against or self.control for arm in self.arms}

    @property
    def models(self) -> dict[str, Arm]:
        """The variants that have to be trained for it, by name."""
        return self.variants

    @property
    def reads_bases(self) -> bool:
        """Whether it reads models trained on bases."""
        return True

    def bases(self, arm: Arm) -> tuple[Base, ...]:
        """Returns the bases on which an arm is trained."""
        return (arm.base or self.base,)


@dataclass(frozen=True)
class Trained(Study):
    """Language models trained on the base.

    Attributes:
        reads: their final held-out loss, or the tokens or the compute that they need for equal
            loss, relative to the control's.
    """

    reads: Literal["loss", "tokens", "compute"] = "loss"
    kind = "trained"


@dataclass(frozen=True)
class Suited(Study):
    """Models asked by a suite of ``softmap eval``.

    Attributes:
        reads: the metric that is read.
        at: ``""`` the headline, ``"last"`` the largest condition, ``"each"`` of them.
        within: a condition of the suite, such as ``step``; the control and the arms are then values
            of it (``step river``), all of the same runs of Transformer++.
    """

    reads: str = ""
    at: Literal["", "last", "each"] = ""
    within: str = ""

    @property
    def models(self) -> dict[str, Arm]:
        """The variants that have to be trained for it, by name."""
        return {CONTROL: Arm(CONTROL)} if self.within else self.variants


@dataclass(frozen=True)
class Asked(Suited):
    """The base's models asked by ``suite``; untrained ones where ``trained`` is false."""

    suite: str = ""
    trained: bool = True
    kind = "asked"

    @property
    def reads_bases(self) -> bool:
        """Whether it reads models trained on bases."""
        return self.trained


@dataclass(frozen=True)
class Learned(Suited):
    """Models that ``softmap learn`` trains on a task of tokens, with other ``settings`` if
    given.
    """

    base: Base = TASK
    task: str = ""
    reads: str = "accuracy"
    settings: Mapping[str, str] = field(default_factory=dict)
    kind = "learned"

    @property
    def reads_bases(self) -> bool:
        """Whether it reads models trained on bases."""
        return False


@dataclass(frozen=True)
class Grafted(Study):
    """The base's Transformer++ of seed 0 as ``softmap graft`` fine-tunes it: unchanged
    (``plain``) and with each arm, at the best of ``peaks``. A run is a fine-tuning; its held-out
    loss is read.
    """

    control: str = "plain"
    settings: Mapping[str, str] = field(default_factory=dict)
    peaks: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    kind = "grafted"
    one_model = True

    @property
    def models(self) -> dict[str, Arm]:
        """The variants that have to be trained for it, by name."""
        return {CONTROL: Arm(CONTROL)}


@dataclass(frozen=True)
class Scaled(Study):
    """Language models of several ``sizes``, to whose losses ``softmap scale`` fits a law per
    variant. ``base`` names the sweep.

    Attributes:
        reads: the parameters, tokens or compute at equal loss, relative to the control's.
    """

    sizes: tuple[Base, ...] = ()
    reads: Literal["parameters", "tokens", "compute"] = "parameters"
    kind = "scaled"

    def bases(self, arm: Arm) -> tuple[Base, ...]:
        """Returns the bases on which an arm is trained."""
        return self.sizes


@dataclass(frozen=True)
class Timed(Study):
    """Speed relative to the control's, with each run in its own process: a training step of the
    base's models, of one size, or decoding with a cache (a prompt of 1024 tokens and 128 new
    ones).
    """

    what: Literal["step", "decode"] = "step"
    kind = "timed"

    @property
    def reads_bases(self) -> bool:
        """Whether it reads models trained on bases."""
        return False


@dataclass(frozen=True)
class Claim:
    """A published sentence.

    Attributes:
        theirs: the authors' numbers, which give the direction and are no target.
        scales: by name the studies, bases from small to large, or a sentence on why it is not
            tested there.
        rule: from the rows of one base to a verdict.
    """

    sentence: str
    paper: str
    source: str
    theirs: str
    hypothesis: str
    protocol: str
    scales: Mapping[str, tuple[Study, ...] | str]
    rule: Callable[[Sequence[ArmRow]], Verdict] = field(default=as_claimed, repr=False)
    id: str = ""


def on(study: Study, *bases: Base) -> tuple[Study, ...]:
    """Returns the study on each of these bases."""
    return tuple(replace(study, base=base) for base in bases)


LOSS = Measure("Held-out loss")
NEAR = Measure("Held-out loss", margin=0.03)  #: where a claim says that something costs nothing
TOKENS = Measure("Tokens for equal loss", "x", 0.05)
COMPUTE = Measure("Compute for equal loss", "x", 0.05)
