"""The sections of a recipe, with their defaults and what they refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from softmap.errors import SoftmapError


@dataclass
class Data:
    """What to read, and how to cut it into tokens; see ``softmap.data``."""

    data: str = "stdlib"  #: "stdlib", a file or folder, or "hf:name[:config][:split]"
    field: str = "text"  #: the field that holds the text in JSONL, Parquet and Hub data
    tokenizer: str = "bpe:1024"  #: "bpe:SIZE", "bytes" or "hf:NAME_OR_PATH"
    heldout: float = 0.05  #: share of the documents that is held out
    max_bytes: int | None = None  #: read at most so much text


@dataclass
class Model:
    """The control's shape. Other variants take the width that makes them equally large."""

    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None  #: the control's MLP width
    context: int = 256  #: tokens a window
    tie_word_embeddings: bool = True
    initializer_range: float | None = None
    backbone: dict[str, Any] = field(default_factory=dict)  #: fields of ``softmap.nn.Backbone``

    def __post_init__(self) -> None:
        _positive(self, "hidden_size", "num_hidden_layers", "num_attention_heads", "context")


@dataclass
class Training:
    """The optimiser and its schedule; see ``softmap.train``."""

    steps: int = 1000
    batch_size: int = 16  #: windows a step
    micro_batch_size: int | None = None  #: windows at once; gradients are accumulated
    peak_lr: float = 3e-3  #: for a variant that brings no peak of its own
    schedule: str = "wsd-s"
    budgets: list[float] = field(default_factory=lambda: [0.25, 0.5, 1.0])  #: shares of steps
    warmup: float = 0.03  #: share of steps
    min_lr_ratio: float = 0.1
    decay_fraction: float = 0.1
    decay_of: str = "cycle"  #: of the steps since the last budget; "so_far": of all steps
    decay_shape: str = "reciprocal"
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    clip: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"
    compile: bool = False
    checkpoint_every: int = 200  #: steps
    log_every: int = 10  #: steps
    device: str = "auto"  #: "auto", "cpu", "cuda", ...

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch_size", "peak_lr")
        shares = self.budgets
        if not shares or shares[-1] != 1 or shares != sorted(set(shares)) or shares[0] <= 0:
            raise SoftmapError(
                f"training.budgets: expected rising shares of the steps that end in 1, "
                f"such as [0.25, 0.5, 1], found {shares}"
            )
        if not 0 <= self.warmup < shares[0]:
            raise SoftmapError(
                f"training.warmup: expected a share of the steps below the first budget "
                f"({shares[0]:g}), found {self.warmup:g}"
            )
        if len(self.betas) != 2:
            raise SoftmapError(f"training.betas: expected two numbers, found {self.betas}")

    def budget_steps(self) -> list[int]:
        """The steps at which a budget ends."""
        ends = [round(share * self.steps) for share in self.budgets]
        if ends[0] < 1 or len(set(ends)) < len(ends):
            raise SoftmapError(
                f"training.steps: {self.steps} steps are too few for the budgets {self.budgets}"
            )
        return ends


@dataclass
class Evaluation:
    """What is measured on held-out text."""

    windows: int = 128  #: held-out windows, the same for every variant
    batch_size: int = 32
    passage_tokens: int = 48  #: length of the passage whose attention maps are drawn

    def __post_init__(self) -> None:
        _positive(self, "windows", "batch_size", "passage_tokens")
        if self.passage_tokens > 64:
            raise SoftmapError(
                f"evaluation.passage_tokens: expected at most 64, found {self.passage_tokens}"
            )


@dataclass
class Tuning:
    """The search for each variant's peak learning rate: the same grid for all."""

    grid: list[float] = field(default_factory=lambda: [1e-3, 2e-3, 4e-3, 8e-3])
    share: float = 0.25  #: of the recipe's steps, each point trained to its own full decay
    seed: int = 1000  #: none of the comparison's seeds
    windows: int = 64  #: windows taken from the end of the training text, and not trained on

    def __post_init__(self) -> None:
        _positive(self, "share", "windows")
        if not self.grid or self.grid != sorted(set(self.grid)) or self.grid[0] <= 0:
            raise SoftmapError(f"tuning.grid: expected rising peaks above 0, found {self.grid}")


def _positive(section: Any, *names: str) -> None:
    for name in names:
        if getattr(section, name) <= 0:
            kind = type(section).__name__.lower()
            raise SoftmapError(
                f"{kind}.{name}: expected more than 0, found {getattr(section, name)}"
            )
