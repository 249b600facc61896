"""The output of ``softmap plan``: a table for people, or JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from softmap.cost import Assumptions, Estimate, Gpu
from softmap.cost.hardware import GIB
from softmap.lab.preflight import vocabulary
from softmap.lab.recipe import Recipe


@dataclass(frozen=True)
class CostTable:
    """The costs of a recipe's models on a number of GPUs, by label."""

    recipe: Recipe
    ranks: int
    gpu: Gpu
    given: Assumptions
    estimates: dict[str, Estimate]
    short: dict[str, str]  #: for models that do not fit: what would make them fit

    def plain(self) -> dict[str, Any]:
        """Returns JSON values."""
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
        """Returns a table with a column for each model, and a line for each that does not fit."""
        gpu, given = self.gpu, self.given
        precision, layout = self.recipe.training.precision, self.recipe.parallel
        kept = {"none": "kept", "block": "computed again", "selective": "computed again in part"}
        peak, wide = (gpu.flops[dtype] / 1e12 for dtype in (precision, "fp32"))
        head = [
            f"{self.recipe.name} on {self.ranks} x {gpu.name}: {layout.described(self.ranks)}; "
            f"activations are {kept[layout.activations]}",
            f"assumed: {given.efficiency:g} of {peak:,.0f} TFLOP/s in {precision}, by edits of the "
            f"map {given.edits:g} of {wide:,.0f} in fp32, {given.link:g} of the links, "
            f"{given.reserve:g} of {gpu.memory / GIB:,.1f} GiB kept back",
            *_guessed(self.recipe),
        ]
        rows = [["", *self.estimates], *_rows(list(self.estimates.values()))]
        return [*head, *_aligned(rows), *self.short.values()]


def _guessed(recipe: Recipe) -> list[str]:
    """Returns a note where only the tokenizer itself could tell its number of tokens."""
    name = recipe.data.tokenizer
    if name.startswith("bpe:"):
        return []
    return [
        f"{name} is taken to have {vocabulary(recipe):,} tokens; --set data.tokenizer=bpe:SIZE "
        "plans for another number"
    ]


def _rows(found: list[Estimate]) -> list[list[str]]:
    """Returns the table's rows of these estimates, names first."""
    memory = [one.memory for one in found]

    def row(name: str, values: list[float], form: str) -> list[str]:
        return [name, *(format(value, form) for value in values)]

    rows = [
        row("parameters", [one.parameters for one in found], ","),
        row("FLOPs per token", [one.flops_per_token for one in found], ".3e"),
        row("FLOPs per step", [one.flops_per_step for one in found], ".3e"),
        row("FLOPs in all", [one.flops for one in found], ".3e"),
        row("memory per rank, GiB", [one.total / GIB for one in memory], ",.2f"),
    ]
    for kind in memory[0].by_kind:
        rows.append(row(f"  {kind}", [one.by_kind[kind] / GIB for one in memory], ",.2f"))
    rows.append(["  at its worst in", *(f"{one.moment}" for one in memory)])
    sent = [one.traffic.by_kind for one in found]
    rows.append(row("sent per rank and step, GB", [sum(s.values()) / 1e9 for s in sent], ",.2f"))
    rows += [row(f"  {kind}", [one[kind] / 1e9 for one in sent], ",.2f") for kind in sent[0]]
    return [
        *rows,
        row("seconds per step", [one.seconds for one in found], ",.3f"),
        row("tokens/s", [one.tokens_per_second for one in found], ",.0f"),
        row("model FLOPs utilisation", [one.mfu for one in found], ".3f"),
        row("days", [one.days for one in found], ",.2f"),
        row("cache bytes per token", [one.cache_bytes_per_token for one in found], ","),
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Returns lines with columns of equal width, the first one left-aligned."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
