"""The options of a training run: one flat, typed, checked record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from softmap.errors import SoftmapError, shown
from softmap.fields import Checked, Range
from softmap.train.plan import Schedule, Segment, plan
from softmap.train.schedules import DecayOf, DecayShape, Terms
from softmap.train.trackers import TrackerName

Precision = Literal["fp32", "bf16"]
Optimizer = Literal["adamw", "muon"]
Count = Annotated[int, Range(1, 2**62)]
Positive = Annotated[float, Range(above=0)]
Beta = Annotated[float, Range(0, below=1)]

# Changing these on resume changes the speed or what is printed, not what is learned
# (a micro-batch size or a compiler may still change the rounding).
_FREE_ON_RESUME = (
    "micro_batch_size", "compile", "checkpoint_every", "log_every", "keep", "label", "trackers",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingOptions(Checked):
    """Options of one training run; lengths are in steps (optimiser updates).

    Attributes:
        steps: length of the run.
        budgets: ascending, the last one equal to ``steps``; empty means ``(steps,)``.
        batch_size: sequences per step.
        micro_batch_size: sequences per forward pass, None for the whole batch.
        context: targets per sequence.
        peak_lr, schedule, warmup, min_lr_ratio, decay_fraction, decay_of, decay_shape: see
            ``softmap.train.schedules``; min_lr_ratio is floor / peak.
        optimizer: ``"muon"`` for hidden matrices and AdamW for the rest, both at the same rate.
        weight_decay: the weight decay of both.
        betas: AdamW's.
        clip: largest global gradient norm, None for no clipping.
        precision: ``"bf16"`` runs the forward pass under autocast; weights stay as they are.
        compile: pass the model through ``torch.compile``.
        seed: the seed of dropout and other random numbers at step 0.
        checkpoint_every: steps between checkpoints; 0 leaves only those at the end of each decay or
            branch and at an interruption.
        keep: how many checkpoints stay on disk.
        log_every: steps between lines of ``train.jsonl``.
        label: name of the run in messages.
        trackers: receivers of the metrics beside the file; one that fails is dropped with a
            warning.
        run: what is trained, beside these options; a checkpoint of another run is refused.
        data: the hash of the text; a checkpoint of another text is refused, where both are known.
        document_end: the id of the token between documents of a batch, which are then separated: no
            token attends to another document. None: a sequence is one document.
    """

    steps: Count
    batch_size: Count
    context: Count
    peak_lr: Positive
    micro_batch_size: Count | None = None
    schedule: Schedule = "wsd-s"
    budgets: tuple[Count, ...] = ()
    warmup: Annotated[int, Range(0)] = 0
    min_lr_ratio: Annotated[float, Range(0, 1)] = 0.1
    decay_fraction: Annotated[float, Range(above=0, below=1)] = 0.1
    decay_of: DecayOf = "cycle"
    decay_shape: DecayShape = "reciprocal"
    weight_decay: Annotated[float, Range(0)] = 0.1
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    optimizer: Optimizer = "adamw"
    clip: Positive | None = 1.0
    precision: Precision = "fp32"
    compile: bool = False
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    checkpoint_every: Annotated[int, Range(0)] = 0
    log_every: Count = 10
    keep: Count = 2
    label: str = "model"
    trackers: tuple[TrackerName, ...] = ()
    run: str = ""
    data: str = ""
    document_end: Annotated[int, Range(0, 2**62)] | None = None

    def __post_init__(self) -> None:
        for name in ("budgets", "betas", "trackers"):
            if isinstance(found := getattr(self, name), list):
                object.__setattr__(self, name, tuple(found))
        if self.budgets == ():
            object.__setattr__(self, "budgets", (self.steps,))
        super().__post_init__()
        if self.budgets[-1] != self.steps:
            raise SoftmapError(
                f"budgets: expected the last to equal steps ({self.steps}), "
                f"found {shown(list(self.budgets))}"
            )
        if self.rows > self.batch_size:
            raise SoftmapError(
                f"micro_batch_size: expected 1 to {self.batch_size} (batch_size), found {self.rows}"
            )
        self.plan()

    @property
    def rows(self) -> int:
        """The number of sequences per forward pass."""
        return self.batch_size if self.micro_batch_size is None else self.micro_batch_size

    def terms(self) -> Terms:
        """Returns the numbers that the learning-rate schedules are made from."""
        return Terms(
            peak=self.peak_lr,
            floor=self.peak_lr * self.min_lr_ratio,
            budgets=self.budgets,
            warmup=self.warmup,
            decay_fraction=self.decay_fraction,
            decay_of=self.decay_of,
            decay_shape=self.decay_shape,
        )

    def plan(self) -> list[Segment]:
        """Returns the segments to train, in order."""
        return plan(self.schedule, self.terms())

    def identity(self) -> dict[str, Any]:
        """Returns the options that decide what is learned, as JSON values: a checkpoint's must be
        equal.
        """
        fields = asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if name not in (*_FREE_ON_RESUME, "steps")
        }


def check_same_run(found: dict[str, Any], options: TrainingOptions, where: str) -> None:
    """Raise SoftmapError unless a checkpoint's options are those of this run.

    The run may have more budgets than the checkpoint: it is then extended.
    """
    before = {field.name: field.default for field in fields(TrainingOptions)}
    for name, expected in options.identity().items():
        value = found.get(name, before[name])  # older checkpoints lack some
        if name == "data" and not value:
            continue
        prefix = isinstance(value, list) and name == "budgets" and expected[: len(value)] == value
        if value != expected and not prefix:
            what = {"data": "text of hash"}.get(name, name)
            raise SoftmapError(
                f"{where}: belongs to another run: expected {what} {expected}, found {value}"
            )
