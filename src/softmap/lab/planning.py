"""``softmap plan``: what a recipe would cost on so many GPUs, before it is trained."""

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
class Plan:
    """Say what a recipe's models cost on so many GPUs: parameters, FLOPs, memory, traffic, days.

    By a stated model (docs/scale.md), without a GPU, and without reading any text.

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
    """Variants instead of the recipe's, by spaces or commas; its control stays."""
    set: tuple[str, ...] = ()
    """Any other value of the recipe, as key.path=value."""
    efficiency: Part = 0.4
    """Share of the GPUs' peak that products of matrices reach."""
    edits: Part = 0.1
    """Share of their peak in float32 that edits of the map reach."""
    link: Part = 0.8
    """Share of their links' peak that sending reaches."""
    reserve: Annotated[float, Range(0, below=1)] = 0.1
    """Share of their memory that a training cannot have."""
    json: bool = False
    """Print one JSON document instead of the table."""

    def run(self, argv: Sequence[str]) -> None:
        from softmap.cost import Assumptions, parse
        from softmap.lab import recipe as recipes

        ranks, gpu = parse(self.gpus)
        given = Assumptions(self.efficiency, self.edits, self.link, self.reserve)
        recipe = recipes.load(self.recipe, split_values(self.set))
        specs = split_variants(self.variant)
        if self.variant and not specs:
            raise SoftmapError(f"--variant: expected names, found {shown(self.variant[0])}")
        recipe = recipes.with_variants(recipe, specs) if specs else recipe
        recipe = settled(recipe)
        found = costed(recipe, plan_of(recipe), ranks, gpu, given)
        text = json.dumps(found.plain(), indent=1) if self.json else "\n".join(found.lines())
        print(text)


@dataclass(frozen=True)
class Costed:
    """A recipe's models on so many GPUs, by label."""

    recipe: Any
    ranks: int
    gpu: Any
    given: Any
    estimates: dict[str, Any]
    short: dict[str, str]  #: of those that do not fit: what would

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        variants = {}
        for label, found in self.estimates.items():
            values = dataclasses.asdict(found)
            names = ("seconds", "tokens_per_second", "days", "mfu")
            values |= {name: getattr(found, name) for name in names}
            values["memory"]["total"] = found.memory.total
            values["fits"] = label not in self.short
            values["would_fit"] = self.short.get(label)
            variants[label] = values
        return {
            "recipe": self.recipe.name,
            "gpus": {"ranks": self.ranks, **dataclasses.asdict(self.gpu)},
            "assumptions": dataclasses.asdict(self.given),
            "parallel": dataclasses.asdict(self.recipe.parallel),
            "variants": variants,
        }

    def lines(self) -> list[str]:
        """For people: a table, a column each, and a line for each that does not fit."""
        gpu, given = self.gpu, self.given
        precision, layout = self.recipe.training.precision, self.recipe.parallel
        kept = {"none": "kept", "block": "computed again", "selective": "computed again in part"}
        peak, wide = (gpu.flops[dtype] / 1e12 for dtype in (precision, "fp32"))
        head = [
            f"{self.recipe.name} on {self.ranks} x {gpu.name}: {layout.described(self.ranks)}; "
            f"activations are {kept[layout.activations]}",
            f"assumed: {given.efficiency:g} of {peak:,.0f} TFLOP/s in {precision}, by edits of the "
            f"map {given.edits:g} of {wide:,.0f} in fp32, {given.link:g} of the links, "
            f"{given.reserve:g} of {gpu.memory / 2**30:,.1f} GiB kept back",
            *_guessed(self.recipe),
        ]
        rows = [["", *self.estimates], *_rows(list(self.estimates.values()))]
        return [*head, *_aligned(rows), *self.short.values()]


def plan_of(recipe: Any) -> Any:
    """All models of a recipe, sized, as far as is known without its text."""
    from softmap.lab.peaks import find_peaks
    from softmap.lab.plan import make_plan
    from softmap.lab.preflight import vocabulary

    return make_plan(recipe, vocabulary(recipe), find_peaks(recipe))


def settled(recipe: Any) -> Any:
    """The recipe with the precision of a GPU, where it leaves that open."""
    if recipe.training.precision != "auto":
        return recipe
    training = dataclasses.replace(recipe.training, precision="bf16")
    return dataclasses.replace(recipe, training=training)


def costed(recipe: Any, plan: Any, ranks: int, gpu: Any, given: Any) -> Costed:
    """The models of a plan on so many GPUs.

    Raises ``SoftmapError`` for sizes that so many ranks do not divide.
    """
    from softmap.cost import estimate
    from softmap.cost.fit import shortage

    recipe.parallel.check(ranks, recipe.training.batch_size, recipe.model.context)
    jobs = {mine.label: _job(recipe, mine, ranks) for mine in plan.candidates}
    estimates = {label: estimate(job, gpu, given) for label, job in jobs.items()}
    lines = {label: shortage(label, job, gpu, given) for label, job in jobs.items()}
    short = {label: line for label, line in lines.items() if line is not None}
    return Costed(recipe, ranks, gpu, given, estimates, short)


def _job(recipe: Any, mine: Any, ranks: int) -> Any:
    from softmap.cost import Job
    from softmap.lab.plan import options
    from softmap.train import spent

    given = options(recipe, mine.peak_lr, mine.seeds[0], mine.label, mine.own)
    return Job(
        config=mine.config.model_config(),
        context=given.context,
        batch_size=given.batch_size,
        precision=given.precision,
        layout=recipe.parallel,
        ranks=ranks,
        micro_batch_size=given.micro_batch_size,
        steps=spent(given.plan(), len(given.budgets) - 1),
    )


def _guessed(recipe: Any) -> list[str]:
    """A line where only the tokenizer itself could say how many tokens it has."""
    from softmap.lab.preflight import vocabulary

    name = recipe.data.tokenizer
    if name.startswith("bpe:"):
        return []
    return [
        f"{name} is taken to have {vocabulary(recipe):,} tokens; --set data.tokenizer=bpe:SIZE "
        "plans for another number"
    ]


def _rows(found: list[Any]) -> list[list[str]]:
    """What is said of each estimate, a line each, names first."""
    memory = [one.memory for one in found]

    def row(name: str, values: list[float], form: str) -> list[str]:
        return [name, *(format(value, form) for value in values)]

    rows = [
        row("parameters", [one.parameters for one in found], ","),
        row("FLOPs a token", [one.flops_per_token for one in found], ".3e"),
        row("FLOPs a step", [one.flops_per_step for one in found], ".3e"),
        row("FLOPs in all", [one.flops for one in found], ".3e"),
        row("memory a rank, GiB", [one.total / 2**30 for one in memory], ",.2f"),
    ]
    for kind in memory[0].by_kind:
        rows.append(row(f"  {kind}", [one.by_kind[kind] / 2**30 for one in memory], ",.2f"))
    rows.append(["  at its worst in", *(f"{one.moment}" for one in memory)])
    sent = [one.traffic.by_kind for one in found]
    rows.append(row("sent a rank and step, GB", [sum(s.values()) / 1e9 for s in sent], ",.2f"))
    rows += [row(f"  {kind}", [one[kind] / 1e9 for one in sent], ",.2f") for kind in sent[0]]
    return [
        *rows,
        row("seconds a step", [one.seconds for one in found], ",.3f"),
        row("tokens/s", [one.tokens_per_second for one in found], ",.0f"),
        row("model FLOPs utilisation", [one.mfu for one in found], ".3f"),
        row("days", [one.days for one in found], ",.2f"),
        row("cache bytes a token", [one.cache_bytes_per_token for one in found], ","),
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
