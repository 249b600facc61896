"""The sections of a recipe: types, ranges and defaults, and which values conflict."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from softmap.errors import SoftmapError
from softmap.fields import Checked, Range
from softmap.train.options import Optimizer, TrainingOptions
from softmap.train.plan import plan
from softmap.train.schedules import Terms
from softmap.train.trackers import TrackerName

Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(above=0, high=1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Count = Annotated[int, Range(1, 10**9)]
Rows = Annotated[int, Range(1, 2**20)]
Windows = Annotated[int, Range(1, 10**6)]
MOST_TRIED = 1000  #: numbers of steps that are tried to suggest one


@dataclass
class Model(Checked):
    """The control's shape. Other variants get the MLP width that makes them equally large.

    The model's own configuration limits what is not limited here.
    """

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None  #: the control's MLP width
    context: Annotated[int, Range(1, 2**24)] = 256  #: tokens per window
    tie_word_embeddings: bool = True
    initializer_range: float | None = None
    backbone: dict[str, Any] = field(default_factory=dict)  #: fields of ``softmap.nn.Backbone``


@dataclass
class Size(Checked):
    """One size of a sweep (``softmap scale``); missing values are those of the model and the
    training.
    """

    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    steps: Count | None = None


#: Settings of [`Training`][] that change the speed only, or belong to one variant.
FREE = (
    "micro_batch_size",
    "compile",
    "device",
    "checkpoint_every",
    "log_every",
    "peak_lr",
    "start",  # its contents count, see ``softmap.lab.start``
    "keep_points",
)


#: Values of later settings that correspond to trainings from before they existed.
_LATER = {"separate_documents": False, "optimizer": "adamw", "start": None}


@dataclass
class Training(Checked):
    """The optimiser and its schedule; see [`softmap.train.TrainingOptions`][].

    Settings that mean the same there have the same default. Lengths are shares of the steps here,
    since recipes are run with more and fewer steps.
    """

    steps: Count = 1000
    batch_size: Rows = 16  #: windows per step
    micro_batch_size: Rows | None = None  #: windows at once; gradients are accumulated
    peak_lr: Positive = 3e-3  #: for a variant without a peak of its own
    schedule: str = TrainingOptions.schedule
    #: shares of the steps; by default [1] for "cosine", [0.25, 0.5, 1] for the others
    budgets: list[Share] | None = None
    warmup: Annotated[float, Range(0, below=1)] = 0.03  #: share of steps
    min_lr_ratio: Annotated[float, Range(0, 1)] = TrainingOptions.min_lr_ratio
    decay_fraction: Annotated[float, Range(above=0, below=1)] = TrainingOptions.decay_fraction
    decay_of: str = (
        TrainingOptions.decay_of
    )  #: "cycle": the steps since the last budget; "so_far": all
    decay_shape: str = TrainingOptions.decay_shape
    weight_decay: Annotated[float, Range(0)] = TrainingOptions.weight_decay
    betas: list[Annotated[float, Range(0, below=1)]] = field(
        default_factory=lambda: list(TrainingOptions.betas)
    )
    optimizer: Optimizer = (
        TrainingOptions.optimizer
    )  #: "muon": for hidden matrices, AdamW for the rest
    clip: Positive | None = TrainingOptions.clip
    #: "auto": bf16 where the device has units for it, fp32 where it would be emulated
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = TrainingOptions.compile
    checkpoint_every: Annotated[int, Range(0, 10**9)] = 200  #: steps
    log_every: Count = TrainingOptions.log_every  #: steps
    trackers: list[TrackerName] = field(default_factory=list)  #: beside ``train.jsonl``
    start: str | None = None  #: the folder of an exported model whose weights it starts from
    keep_points: bool = False  #: weights before and after each decay, for the suite ``river``
    separate_documents: bool = False  #: tokens attend only to their own document
    device: str = "auto"  #: "auto", "cpu", "cuda", ...

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.shares
        if not shares or shares[-1] != 1 or shares != sorted(set(shares)):
            raise SoftmapError(
                f"budgets: expected rising shares of the steps that end in 1, "
                f"such as [0.25, 0.5, 1], found {shares}"
            )
        if self.schedule == "cosine" and len(shares) > 1:
            raise SoftmapError(
                f"budgets: expected [1], as a cosine ends once, found {shares} "
                "(--set training.budgets=[1], or schedule cyclic-cosine or cosine-oracle)"
            )
        if not self.warmup < shares[0]:
            raise SoftmapError(
                f"warmup: expected a share of the steps below the first budget "
                f"({shares[0]:g}), found {self.warmup:g}"
            )
        if len(self.betas) != 2:
            raise SoftmapError(f"betas: expected two numbers, found {self.betas}")

        self._check_schedule()

    def settings(self, free: Collection[str] = ()) -> dict[str, Any]:
        """Returns the settings that a result depends on, by name.

        ``free`` ones are left out, and so are later ones whose value is that of earlier trainings,
        so that older files still match.
        """
        values = dataclasses.asdict(self)
        del values["trackers"]
        later = {name: value for name, value in _LATER.items() if values[name] == value}
        return {name: value for name, value in values.items() if name not in (*free, *later)}

    def with_own(self, own: OwnSchedule | None) -> Training:
        """Returns the section with what one line of the variants overrides."""
        if own is None:
            return self
        return dataclasses.replace(self, budgets=self.shares, **own.given())

    def budget_steps(self, steps: int | None = None) -> list[int]:
        """Returns the steps at which budgets end."""
        return [round(share * (steps or self.steps)) for share in self.shares]

    @property
    def shares(self) -> list[float]:
        """The value of ``budgets``, or the schedule's default."""
        if self.budgets is not None:
            return self.budgets
        return [1.0] if self.schedule == "cosine" else [0.25, 0.5, 1.0]

    def _check_schedule(self) -> None:
        """Raise ``SoftmapError`` for a schedule that does not fit, with a number of steps that
        would.
        """
        problem = self._problem(self.steps)
        if problem is None:
            return
        more = range(self.steps + 1, self.steps + MOST_TRIED)
        enough = next((steps for steps in more if self._problem(steps) is None), None)
        if enough is None:
            raise SoftmapError(problem)
        raise SoftmapError(
            f"steps: {self.steps} are too few for this schedule ({problem}); {enough} would do"
        )

    def _problem(self, steps: int) -> str | None:
        """Returns why the schedule does not fit a run of this many steps, or None."""
        try:
            terms = Terms(
                peak=1.0,
                floor=self.min_lr_ratio,
                budgets=tuple(self.budget_steps(steps)),
                warmup=round(self.warmup * steps),
                decay_fraction=self.decay_fraction,
                decay_of=self.decay_of,  # type: ignore[arg-type]  # checked by Terms
                decay_shape=self.decay_shape,  # type: ignore[arg-type]  # checked by Terms
            )
            plan(self.schedule, terms)  # type: ignore[arg-type]  # checked there
        except SoftmapError as error:
            return str(error)
        return None


@dataclass
class OwnSchedule(Checked):
    """The schedule of one line of ``variants`` where it differs; the budgets stay."""

    schedule: str | None = None
    warmup: Annotated[float, Range(0, below=1)] | None = None
    min_lr_ratio: Annotated[float, Range(0, 1)] | None = None
    decay_fraction: Annotated[float, Range(above=0, below=1)] | None = None
    decay_of: str | None = None
    decay_shape: str | None = None

    def given(self) -> dict[str, Any]:
        """Returns the values that are set."""
        return {key: value for key, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.given().items())


@dataclass
class Evaluation(Checked):
    """The measurements on held-out text."""

    windows: Windows = 128  #: held-out windows, the same for every variant
    batch_size: Rows = 32
    #: length of the passage whose attention maps are drawn
    passage_tokens: Annotated[int, Range(1, 64)] = 48
    #: suites of ``softmap eval``, asked of every trained model; the page shows their answers
    suites: list[str] = field(default_factory=list)


@dataclass
class Tuning(Checked):
    """The search for each variant's peak learning rate: the same grid for all."""

    grid: list[Positive] = field(default_factory=lambda: [1e-3, 2e-3, 4e-3, 8e-3])
    share: Share = 0.25  #: share of the recipe's steps; each point is trained to its full decay
    seed: Seed = 1000  #: the first of its seeds, none of which the comparison uses
    runs: Annotated[int, Range(1, 100)] = 2  #: runs at each peak, one for each seed
    windows: Windows = 64  #: held-out windows, none of which the comparison evaluates

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.grid or self.grid != sorted(set(self.grid)):
            raise SoftmapError(f"grid: expected rising peaks, found {self.grid}")

    @property
    def seeds(self) -> range:
        """The seeds of the tuning: ``runs`` of them, starting from ``seed``."""
        return range(self.seed, self.seed + self.runs)
