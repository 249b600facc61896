"""A scale's folder of models, and the recipes that they are trained by."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softmap.claims._bases import Base
from softmap.claims._claim import CONTROL
from softmap.lab import recipe as recipes
from softmap.lab.cluster import Cluster
from softmap.lab.engine import Engine
from softmap.lab.entry import Entry
from softmap.lab.peaks import Peaks, find_peaks
from softmap.lab.plan import slug
from softmap.lab.preflight import with_precision
from softmap.lab.progress import Display
from softmap.lab.recipe import Recipe
from softmap.lab.workers import cores

MARGIN_RUNS = 2  #: factor of the number of runs of an arm that others are compared with


@dataclass(frozen=True)
class Workspace:
    """A scale's folder, with a subfolder for each base, and how studies are run there.

    Attributes:
        seeds: runs of an arm.
        settings: values for all bases, as ``--set`` gives them.
    """

    folder: Path
    seeds: int = 5
    jobs: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    command: str = "softmap claims run"
    display: Callable[[], Display] = Display
    tell: Callable[[str], None] = lambda _: None
    cluster: Cluster | None = None

    @property
    def engine(self) -> Engine:
        """Where the trainings run."""
        places = self.cluster.slots(gpus=False) if self.cluster else 0
        return Engine(places or self.jobs or cores(), self.cluster)

    def runs(self, reference: bool) -> int:
        """Returns the number of runs of an arm, larger for one that others are compared with."""
        return self.seeds * (MARGIN_RUNS if reference else 1)

    def trial(self, base: Base, variant: str, seed: int) -> Path:
        """Returns the folder of a trained model, whether it exists or not."""
        return self.folder / base.name / "variants" / slug(variant) / f"seed{seed}"

    def recipe(self, base: Base, runs: Mapping[str, int]) -> Recipe:
        """Returns the base's recipe with these variants and numbers of runs.

        The control, whose size all have, comes first and has at least one run. A variant that was
        not tuned takes the peak of its method's tuned form, the smallest one where it combines
        several.
        """
        found = with_precision(recipes.load(base.recipe, {**base.settings, **self.settings}))
        steps = round(base.steps * found.training.steps)
        training = dataclasses.replace(found.training, steps=steps)
        found = dataclasses.replace(
            found, name=base.name, seeds=[0], control_seeds=[], training=training
        )
        peaks = find_peaks(found, self.folder / base.name)
        entries = [
            Entry(name, peak_lr=_peak(name, peaks), seeds=list(range(runs.get(name, 1))))
            for name in dict.fromkeys([CONTROL, *runs])
        ]
        return dataclasses.replace(found, variants=entries, control=CONTROL)


def _peak(variant: str, peaks: Peaks) -> float | None:
    """Returns the peak of a variant's methods; None where it has its own, or the recipe's
    applies.
    """
    if variant in peaks.by_variant:
        return None
    tuned = {method: peak for name, peak in peaks.by_variant.items() for method in methods(name)}
    found = [tuned[method] for method in methods(variant) if method in tuned]
    return min(found) if found else None


def methods(variant: str) -> list[str]:
    """Returns the methods of a variant: ``diff`` and ``dcmha`` for ``diff+dcmha(rank=4)``."""
    bare = re.sub(r"\([^()]*\)", "", variant)
    return re.split(r"\+(?=[a-z])", bare)
