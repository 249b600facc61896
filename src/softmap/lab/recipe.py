"""A recipe: a whole comparison as data.

A YAML file, read strictly: an unknown key, a wrong type or a key given twice is refused with the
file, the line and the key named. Every value has a default, so ``variants: [diff]`` alone is a
recipe. Shares (``budgets``, ``warmup``) refer to ``training.steps``: changing the number of steps
scales the whole schedule. Seeds are a list or a number: ``seeds: 3`` is ``seeds: [0, 1, 2]``.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import yaml

from softmap.data.config import DataConfig
from softmap.errors import SoftmapError, nearest, shown
from softmap.fields import Checked
from softmap.lab import nodes, strict
from softmap.lab.entry import Entry
from softmap.lab.names import check_name, is_run, no_run, run_name
from softmap.lab.sections import Evaluation, Model, Positive, Seed, Size, Training, Tuning
from softmap.lab.seeds import check_seeds, joined, listed
from softmap.report.peaks import PEAKS
from softmap.train.layout import Layout

SUFFIXES = (".yaml", ".yml")
_SEEDS = ("seeds", "control_seeds")


@dataclass
class Recipe(Checked):
    """A whole comparison."""

    name: str = "run"
    data: DataConfig = field(default_factory=DataConfig)
    model: Model = field(default_factory=Model)
    training: Training = field(default_factory=Training)
    parallel: Layout = field(default_factory=Layout)  #: for ``softmap train`` in several processes
    variants: list[Entry] = field(default_factory=lambda: [Entry("transformer++")])
    control: str | None = None  #: what the others are compared with; by default the first variant
    seeds: list[Seed] = field(default_factory=lambda: [0])  #: seeds of every variant's runs
    #: further seeds of the control, which every comparison uses
    control_seeds: list[Seed] = field(default_factory=list)
    evaluation: Evaluation = field(default_factory=Evaluation)
    tuning: Tuning = field(default_factory=Tuning)
    sizes: list[Size] = field(default_factory=list)  #: sizes of a sweep, for ``softmap scale``
    #: Peaks by variant, or a file that ``--tune`` wrote (relative to the recipe).
    peaks: dict[str, Positive] | str | None = None
    path: Path | None = field(default=None, compare=False, metadata={"yaml": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("name", self.name)
        if not self.variants:
            raise SoftmapError("variants: expected at least one, found none")
        check_seeds("seeds", self.seeds, least=1)
        check_seeds("control_seeds", self.control_seeds)
        own = joined(self.control_seeds, *(entry.seeds for entry in self.variants))
        both = set(self.tuning.seeds) & {*self.seeds, *own}
        if both:
            raise SoftmapError(f"tuning.seed: {min(both)} is one of the run's own seeds")

    @property
    def peaks_path(self) -> Path | None:
        """The file of tuned peaks, if the recipe names one."""
        if not isinstance(self.peaks, str):
            return None
        return (self.path.parent if self.path else Path()) / self.peaks

    def seeds_of(self, entry: Entry, *, control: bool) -> list[int]:
        """Returns the seeds of a variant: those of all, and its own."""
        return joined(self.seeds, self.control_seeds if control else [], entry.seeds)


def with_variants(recipe: Recipe, specs: list[str]) -> Recipe:
    """Returns the recipe with other variants, by its own entries where it has them, and its
    control.
    """
    from softmap.variants import renamed  # imported late: it loads torch

    known = {name: e for e in recipe.variants for name in (e.name, renamed(e.variant, {}))}
    control = recipe.control or recipe.variants[0].label or recipe.variants[0].variant
    names = dict.fromkeys(name if name in known else renamed(name, {}) for name in specs)
    named = names if control in names else {control: None, **names}
    entries = [known.get(name, Entry(name)) for name in named]
    return dataclasses.replace(recipe, variants=entries, control=control)


def load(path: Path | str, overrides: dict[str, str] | None = None) -> Recipe:
    """Returns a recipe; ``overrides`` maps dotted keys to YAML text that replaces their values.

    ``path`` is a file, or the name of a recipe that comes with softmap (``demo``, ``evening``).
    Raises ``SoftmapError`` with the file, line and key of the first error.
    """
    path = find(path)
    return _recipe(nodes.read(path), path, overrides or {})


def parse(text: str, path: Path, overrides: dict[str, str] | None = None) -> Recipe:
    """Returns the recipe in ``text``, as [`load`][] reads it from a file ``path``."""
    return _recipe(nodes.parse(text, str(path)), path, overrides or {})


def of_run(folder: Path, overrides: dict[str, str] | None = None, *, trust: bool = False) -> Recipe:
    """Returns the recipe that a run was made with, with all its seeds and its tuned peaks.

    Args:
        trust: whether variants that it names by file may run.

    Raises ``SoftmapError`` where they may not, and for a damaged run.
    """
    from softmap.report.load import read_run
    from softmap.variants import outside

    path = folder / "run.json"
    info = read_run(path)
    if not info["recipe"]:
        raise SoftmapError(f"{path}: expected the run's recipe, found none")
    own = {"name": json.dumps(run_name(folder)), "seeds": json.dumps(info["seeds"])}
    if os.path.lexists(folder / PEAKS):
        own["peaks"] = PEAKS
    recipe = parse(info["recipe"], path, {**own, **(overrides or {})})
    for entry in recipe.variants:
        if outside(entry.variant) and not trust:
            raise SoftmapError(
                f"{path}: the run names code, {shown(entry.variant)}; --trust-remote-code runs it"
            )
    homes = info.get("homes") or {}
    entries = [_placed(entry, folder / homes.get(entry.name, ".")) for entry in recipe.variants]
    return dataclasses.replace(recipe, variants=entries)


def find(path: Path | str) -> Path:
    """Returns the file of a recipe, given its path or the name of one that comes with softmap."""
    path = Path(path)
    if path.is_dir():
        raise no_run(path)
    if path.is_file() and path.suffix not in SUFFIXES:
        raise SoftmapError(
            f"{path}: expected a recipe ({' or '.join(SUFFIXES)}) or a run's folder, found another "
            f"file; text is given with --data {path}"
        )
    if path.exists():
        return path
    if "=" in path.name:
        raise SoftmapError(f"no recipe or run {str(path)!r}; a value is given with --set {path}")
    known = {f.name.removesuffix(".yaml"): f for f in shipped().iterdir() if f.suffix == ".yaml"}
    if str(path) in known:
        return known[str(path)]
    if is_run(run := Path("runs") / path):
        raise SoftmapError(f"no recipe {str(path)!r}; there is a run: {run}")
    if path.name != str(path) and not path.suffix:
        raise no_run(path)
    hint = nearest(path.stem, known) or f" (softmap has {', '.join(sorted(known))})"
    raise SoftmapError(f"no recipe or run {str(path)!r}{hint}")


def _recipe(root: yaml.Node | None, path: Path, overrides: dict[str, str]) -> Recipe:
    if root is None:
        raise SoftmapError(f"{path}: expected a recipe, found an empty file")
    for key, text in overrides.items():
        nodes.override(root, key, text)
    _list_seeds(root)
    recipe: Recipe = strict.convert(root, Recipe, "")
    entries = [_placed(entry, path.parent) for entry in recipe.variants]
    return dataclasses.replace(recipe, path=path, variants=entries)


def _placed(entry: Entry, folder: Path) -> Entry:
    """Returns the entry with relative ``.py`` files resolved in ``folder`` before the working
    directory.
    """
    if ".py:" not in entry.variant:
        return entry
    from softmap.nn.own import loaded  # imported late: it loads torch

    variant = loaded(entry.variant, folder.absolute(), trusted=True)
    return dataclasses.replace(entry, variant=variant)


def _list_seeds(root: yaml.Node) -> None:
    """Replace numbers of seeds by lists, in place."""
    if isinstance(root, yaml.MappingNode):
        root.value = [
            (name, listed(value, name.value) if name.value in _SEEDS else value)
            for name, value in root.value
        ]


def dump(recipe: Recipe) -> str:
    """Returns the recipe as YAML that ``load`` reads back, every value written out."""
    plain = dataclasses.asdict(recipe)
    plain["variants"] = [entry.plain() for entry in recipe.variants]
    del plain["path"]
    if not recipe.sizes:
        del plain["sizes"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def shipped() -> Path:
    """Returns the folder of the recipes that come with softmap."""
    return Path(str(resources.files("softmap") / "recipes"))
