"""A recipe: a whole comparison as data.

A YAML file, read strictly: an unknown key, a wrong type or a key given twice is refused with the
file, the line and the key named. Every value has a default, so ``variants: [diff]`` alone is a
recipe. Shares (``budgets``, ``warmup``) are of ``training.steps``: changing the number of steps
scales the whole schedule.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from softmap.errors import SoftmapError, nearest
from softmap.lab import strict


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
    initializer_range: float = 0.02
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


@dataclass
class Entry:
    """One line of ``variants``.

    In YAML: a name (``diff``), a composition (``diff+dcmha(rank=4)``), a list of edits, or a
    mapping ``{variant, label?, peak_lr?, ...}`` whose further keys are options of the edit.
    """

    variant: str
    label: str | None = None
    peak_lr: float | None = None
    where: str = field(default="", compare=False, repr=False)

    @classmethod
    def from_node(cls, node: yaml.Node, key: str) -> Entry:
        """Read any of the four forms."""
        if not isinstance(node, yaml.MappingNode):
            return cls(_spec(node, key), where=strict.where(node))
        values = strict.pairs(node, key)
        if "variant" not in values:
            raise strict.fail(node, f"missing key '{key}.variant'")
        spec = _spec(values.pop("variant")[1], f"{key}.variant")
        given = [(name, kind) for name, kind in _OWN if name in values]
        own = {n: strict.convert(values.pop(n)[1], kind, f"{key}.{n}") for n, kind in given}
        return cls(_with_options(node, spec, values), where=strict.where(node), **own)

    def plain(self) -> Any:
        """The shortest YAML form."""
        own = {name: getattr(self, name) for name, _ in _OWN}
        own = {name: value for name, value in own.items() if value is not None}
        return {"variant": self.variant, **own} if own else self.variant


_OWN: list[tuple[str, Any]] = [("label", str), ("peak_lr", float)]


@dataclass
class Recipe:
    """A whole comparison."""

    name: str = "run"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    variants: list[Entry] = field(default_factory=lambda: [Entry("transformer++")])
    control: str | None = None  #: what the others are compared with: the first variant
    seeds: list[int] = field(default_factory=lambda: [0])
    evaluation: Evaluation = field(default_factory=Evaluation)
    tuning: Tuning = field(default_factory=Tuning)
    #: Tuned peaks by variant, or the file that ``--tune`` writes (relative to the recipe).
    peaks: dict[str, float] | str | None = None
    path: Path | None = field(default=None, compare=False, metadata={"yaml": False})

    def __post_init__(self) -> None:
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise SoftmapError(f"name: expected the name of a folder, found {self.name!r}")
        if not self.variants:
            raise SoftmapError("variants: expected at least one, found none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise SoftmapError(f"seeds: expected different numbers from 0, found {self.seeds}")
        if self.tuning.seed in self.seeds:
            raise SoftmapError(f"tuning.seed: {self.tuning.seed} is one of the run's own seeds")
        self.training.budget_steps()

    @property
    def peaks_path(self) -> Path | None:
        """The file of tuned peaks, where the recipe names one."""
        if not isinstance(self.peaks, str):
            return None
        return (self.path.parent if self.path else Path()) / self.peaks


def with_variants(recipe: Recipe, specs: list[str]) -> Recipe:
    """The recipe with other variants: its own entries where it has them, and always its control."""
    known = {name: e for e in recipe.variants for name in (e.variant, e.label) if name}
    control = recipe.control or recipe.variants[0].label or recipe.variants[0].variant
    names = dict.fromkeys(specs if control in specs else [control, *specs])
    entries = [known.get(name, Entry(name)) for name in names]
    return dataclasses.replace(recipe, variants=entries, control=control)


def load(path: Path | str, overrides: dict[str, str] | None = None) -> Recipe:
    """Read a recipe; ``overrides`` maps dotted keys to YAML text that replaces what they hold.

    ``path`` is a file, or the name of a recipe that comes with softmap (``demo``, ``evening``).
    Raises ``SoftmapError`` with the file, line and key of the first fault.
    """
    path = find(path)
    root = strict.read(path)
    if root is None:
        raise SoftmapError(f"{path}: expected a recipe, found an empty file")
    for key, text in (overrides or {}).items():
        strict.override(root, key, text)
    recipe: Recipe = strict.convert(root, Recipe, "")
    return dataclasses.replace(recipe, path=path)


def find(path: Path | str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with softmap."""
    path = Path(path)
    if path.is_dir():
        raise SoftmapError(f"{path}: expected a recipe file, found a folder")
    if path.exists():
        return path
    shipped = {f.name.removesuffix(".yaml"): f for f in _shipped().iterdir() if f.suffix == ".yaml"}
    if str(path) in shipped:
        return shipped[str(path)]
    hint = nearest(path.stem, shipped) or f" (softmap brings {', '.join(sorted(shipped))})"
    raise SoftmapError(f"no recipe {str(path)!r}{hint}")


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that ``load`` reads back, every value written out."""
    plain = dataclasses.asdict(recipe)
    plain["variants"] = [entry.plain() for entry in recipe.variants]
    del plain["path"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _shipped() -> Path:
    return Path(str(resources.files("softmap") / "recipes"))


def _spec(node: yaml.Node, key: str) -> str:
    if isinstance(node, yaml.SequenceNode):
        return "+".join(_edit(item, f"{key}[{i}]") for i, item in enumerate(node.value))
    return _edit(node, key)


def _edit(node: yaml.Node, key: str) -> str:
    """``diff``, or ``dcmha: {rank: 4}`` for an edit with options."""
    if not isinstance(node, yaml.MappingNode):
        found: str = strict.convert(node, str, key)
        return found
    named = strict.pairs(node, key)
    if len(named) != 1:
        raise strict.fail(node, f"{key}: expected one edit, found {', '.join(named) or 'none'}")
    ((name, (_, value)),) = named.items()
    return _with_options(node, name, strict.pairs(value, f"{key}.{name}"))


def _with_options(node: yaml.Node, spec: str, options: dict[str, Any]) -> str:
    if not options:
        return spec
    if "+" in spec.removesuffix("++") or "(" in spec:
        names = ", ".join(options)
        raise strict.fail(node, f"options ({names}) go with a single edit, not with {spec!r}")
    given = ", ".join(f"{name}={_option(value)}" for name, (_, value) in options.items())
    return f"{spec}({given})"


def _option(node: yaml.Node) -> str:
    value = strict.plain(node)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _positive(section: Any, *names: str) -> None:
    for name in names:
        if getattr(section, name) <= 0:
            kind = type(section).__name__.lower()
            raise SoftmapError(
                f"{kind}.{name}: expected more than 0, found {getattr(section, name)}"
            )
