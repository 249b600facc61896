"""How far a run has come: the part of a checkpoint that is neither tensors nor random states."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from softmap.errors import SoftmapError
from softmap.files.sealed import read_sealed, write_sealed
from softmap.train.options import TrainingOptions
from softmap.train.plan import Position


@dataclass
class Meter:
    """Sums since the last logged step; saved too, so that a resumed run logs the same numbers."""

    loss: float = 0.0
    grad_norm: float = 0.0
    seconds: float = 0.0
    steps: int = 0


@dataclass
class State:
    """The result of ``train``.

    Attributes:
        segment, step: the position in the plan: index of the segment, updates of the present
            weights.
        tokens: targets that the weights were trained on.
        seconds: time of that training, without evaluations, checkpoints and interruptions.
        finished: whether the whole plan is done and every budget's callback has returned.
        signal: the signal that interrupted the run, if one did.
    """

    segment: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    meter: Meter = field(default_factory=Meter)
    finished: bool = False
    signal: int | None = None

    @property
    def position(self) -> Position:
        """The segment's index, and the number of updates made."""
        return self.segment, self.step

    def advance(self, loss: float, grad_norm: float, seconds: float, tokens: int) -> None:
        """Count one step."""
        self.step += 1
        self.tokens += tokens
        self.seconds += seconds
        self.meter.loss += loss
        self.meter.grad_norm += grad_norm
        self.meter.seconds += seconds
        self.meter.steps += 1

    def metrics(
        self, lr: float, tokens_per_step: int, full_speed: float | None = None
    ) -> dict[str, float]:
        """Returns means since the last call (the rate is the last step's), in nats, seconds and
        tokens.

        Args:
            full_speed: tokens per second at the peak of the hardware, of which ``mfu`` is the share
                that was reached; without it there is no ``mfu``.
        """
        meter, self.meter = self.meter, Meter()
        speed = meter.steps * tokens_per_step / max(meter.seconds, 1e-9)
        return {
            "segment": self.segment,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": meter.loss / meter.steps,
            "lr": lr,
            "grad_norm": meter.grad_norm / meter.steps,
            "tokens_per_second": speed,
            **({"mfu": speed / full_speed} if full_speed else {}),
        }

    def record(self, options: TrainingOptions) -> dict[str, Any]:
        """Returns JSON values for a checkpoint; ``from_record`` reads them."""
        fields = asdict(self)
        del fields["finished"], fields["signal"]
        return {**fields, "options": options.identity()}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> State:
        """Returns the state that a checkpoint's record holds."""
        fields = {name: value for name, value in record.items() if name not in ("options", "log")}
        return cls(**{**fields, "meter": Meter(**fields["meter"])})


class BudgetsDone:
    """The budgets whose callback has returned, in a small file of their own.

    It is not part of a checkpoint, so that going back to an older one evaluates no budget twice.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._path = path
        if fresh:
            path.unlink(missing_ok=True)
        self._done: list[int] = self._read() if path.exists() else []

    def __contains__(self, index: int) -> bool:
        return index in self._done

    def add(self, index: int) -> None:
        """Add a budget and write the file."""
        self._done.append(index)
        write_sealed(self._path, {"done": self._done})

    def _read(self) -> list[int]:
        try:
            return [int(index) for index in read_sealed(self._path)["done"]]
        except SoftmapError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise SoftmapError(
                f'{self._path}: expected {{"done": [indices]}}, found other contents'
            ) from error
