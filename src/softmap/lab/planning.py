"""``softmap plan``: what a recipe would cost on a number of GPUs, before it is trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from softmap.errors import SoftmapError, shown
from softmap.fields import Range
from softmap.lab.names import split_values, split_variants

Part = Annotated[float, Range(above=0, high=1)]


@dataclass
class PlanCommand:
    """Estimate what a recipe's models cost on a number of GPUs: parameters, FLOPs, memory, traffic,
    days.

    The estimate follows a stated model (docs/scale.md), without a GPU, and without reading any
    text.

    For example:
      softmap plan 3b --gpus 256xh100
      softmap plan 7b --gpus 64xh200 --variant diff dcmha --set parallel.activations=block
      softmap plan 3b --gpus 256xh100 --json
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE")] = "3b"
    """A recipe file, or the name of one that comes with softmap (1b, 3b, 7b, demo)."""
    gpus: str = "8xh100"
    """How many of which kind: a100, h100, h200, b200, mi300x."""
    variant: tuple[str, ...] = ()
    """Variants instead of the recipe's, separated by spaces or commas; its control stays."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    efficiency: Part = 0.4
    """Share of the GPUs' peak that matrix products reach."""
    edits: Part = 0.1
    """Share of their peak in float32 that edits of the map reach."""
    link: Part = 0.8
    """Share of their links' peak that communication reaches."""
    reserve: Annotated[float, Range(0, below=1)] = 0.1
    """Share of their memory that a training cannot have."""
    json: bool = False
    """Print one JSON document instead of the table."""

    def run(self, argv: Sequence[str]) -> None:
        """Print the plan, or raise ``SoftmapError`` for what does not fit."""
        from softmap.cost import Assumptions, parse
        from softmap.lab import recipe as recipes

        ranks, gpu = parse(self.gpus)
        given = Assumptions(self.efficiency, self.edits, self.link, self.reserve)
        recipe = recipes.load(self.recipe, split_values(self.set))
        specs = split_variants(self.variant)
        if self.variant and not specs:
            raise SoftmapError(f"--variant: expected names, found {shown(self.variant[0])}")
        recipe = recipes.with_variants(recipe, specs) if specs else recipe
        recipe = with_gpu_precision(recipe)
        found = plan_costs(recipe, plan_of(recipe), ranks, gpu, given)
        text = json.dumps(found.plain(), indent=1) if self.json else "\n".join(found.lines())
        print(text)


def plan_of(recipe: Any) -> Any:
    """Returns all models of a recipe, sized, as far as is known without its text."""
    from softmap.lab.peaks import find_peaks
    from softmap.lab.plan import make_plan
    from softmap.lab.preflight import vocabulary

    return make_plan(recipe, vocabulary(recipe), find_peaks(recipe))


def with_gpu_precision(recipe: Any) -> Any:
    """Returns the recipe with a GPU's precision, bf16, where it says "auto"."""
    if recipe.training.precision != "auto":
        return recipe
    training = dataclasses.replace(recipe.training, precision="bf16")
    return dataclasses.replace(recipe, training=training)


def plan_costs(recipe: Any, plan: Any, ranks: int, gpu: Any, given: Any) -> Any:
    """Returns the :class:`softmap.lab.cost_table.CostTable` of a plan on a number of GPUs.

    Raises ``SoftmapError`` for sizes that this number of ranks does not divide.
    """
    from softmap.cost import estimate
    from softmap.cost.fit import shortage
    from softmap.lab.cost_table import CostTable
    from softmap.lab.plan import job_of

    recipe.parallel.check(ranks, recipe.training.batch_size, recipe.model.context)
    jobs = {mine.label: job_of(recipe, mine, ranks) for mine in plan.models}
    estimates = {label: estimate(job, gpu, given) for label, job in jobs.items()}
    lines = {label: shortage(label, job, gpu, given) for label, job in jobs.items()}
    short = {label: line for label, line in lines.items() if line is not None}
    return CostTable(recipe, ranks, gpu, given, estimates, short)
