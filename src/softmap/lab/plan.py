"""From a recipe to models of one size: what will be trained, before any training."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from softmap.cost import Job
from softmap.errors import SoftmapError, nearest
from softmap.hf import SoftmapConfig
from softmap.lab.names import LONGEST
from softmap.lab.peaks import Peaks, find_peaks
from softmap.lab.recipe import Entry, Recipe
from softmap.lab.sections import OwnSchedule
from softmap.nn import accounting
from softmap.train import TrainingOptions, spent
from softmap.variants import load


@dataclass(frozen=True)
class PlannedModel:
    """One variant of a comparison, sized and with its peak learning rate.

    Attributes:
        label: its name in tables.
        spec: the canonical variant.
        slug: its folder's name.
        peak_source: "recipe" (given with the variant or for all), "tuned" (for this setting), or
            "hint" (the paper's).
        seeds: those of its runs.
        own: its schedule, where it differs from the recipe's.
    """

    label: str
    slug: str
    spec: str
    title: str
    paper: str | None
    source: str | None
    config: SoftmapConfig
    parameters: dict[str, int]
    peak_lr: float
    peak_source: str
    seeds: tuple[int, ...]
    own: OwnSchedule | None = None

    @property
    def key(self) -> str:
        """The key of its tuned peak: the variant, and its own schedule."""
        return self.spec if self.own is None else f"{self.spec} ({self.own})"

    def costs(self, context: int) -> dict[str, Any]:
        """Returns parameters, FLOPs per trained token and cache bytes per token, as results name
        them.
        """
        return {
            "parameters": self.parameters["total"],
            "parameters_non_embedding": self.parameters["non_embedding"],
            "intermediate_size": self.config.intermediate_size,
            "flops_per_token": accounting.flops_per_token(self.config, context),
            "cache_bytes_per_token": accounting.cache_bytes_per_token(self.config),
        }


@dataclass(frozen=True)
class Plan:
    """The models of a comparison, the control's label and the size that all share."""

    models: list[PlannedModel]
    control: str
    target: int


def make_plan(recipe: Recipe, vocab_size: int, peaks: Peaks | None = None) -> Plan:
    """Returns the models of a recipe, sized to the control's parameters within 1 %.

    Args:
        peaks: as ``find_peaks`` returns them; by default those that the recipe gives or names.

    Raises ``SoftmapError`` with the recipe's line for an unknown variant, an impossible
    combination, a size that no MLP width gives, or a schedule that does not fit.
    """
    loaded = [(entry, _at(entry, load, entry.variant)) for entry in recipe.variants]
    labels = [entry.label or variant.label for entry, variant in loaded]
    _check_unique(labels, "label")
    _check_unique(map(slug, labels), "folder name")
    control = _control(recipe, loaded, labels)
    peaks = find_peaks(recipe) if peaks is None else peaks
    base = _config(recipe, loaded[control], vocab_size, recipe.model.intermediate_size)
    target = accounting.parameters(base)["total"]
    models = []
    for i, (entry, variant) in enumerate(loaded):
        peak_lr, source = _peak(recipe, entry, variant, peaks)
        # Refuses what cannot be trained.
        _at(entry, training_options, recipe, peak_lr, recipe.seeds[0], labels[i], entry.training)
        config = base if i == control else _sized(recipe, loaded[i], vocab_size, target)
        seeds = recipe.seeds_of(entry, control=i == control)
        made = _planned(labels[i], variant, config, (peak_lr, source), seeds)
        models.append(dataclasses.replace(made, own=entry.training))
    return Plan(models, labels[control], target)


def training_options(
    recipe: Recipe, peak_lr: float, seed: int, label: str, own: OwnSchedule | None = None
) -> TrainingOptions:
    """Returns the training options of one trial; raises ``SoftmapError`` where they do not fit."""
    try:
        given = recipe.training.with_own(own)
        same = {
            f.name: getattr(given, f.name)
            for f in fields(TrainingOptions)
            if hasattr(given, f.name)
        }
        here = {
            "context": recipe.model.context, "peak_lr": peak_lr, "seed": seed, "label": label,
            "budgets": tuple(given.budget_steps()), "warmup": round(given.warmup * given.steps),
            "betas": tuple(given.betas),
        }  # fmt: skip
        return TrainingOptions(**{**same, **here})
    except SoftmapError as error:
        raise SoftmapError(f"training: {error}") from None


def job_of(recipe: Recipe, planned: PlannedModel, ranks: int = 1) -> Job:
    """Returns what the model's training costs depend on, on so many ranks."""
    given = training_options(recipe, planned.peak_lr, planned.seeds[0], planned.label, planned.own)
    return Job(
        config=planned.config.model_config(),
        context=given.context,
        batch_size=given.batch_size,
        precision=given.precision,
        layout=recipe.parallel,
        ranks=ranks,
        micro_batch_size=given.micro_batch_size,
        steps=spent(given.plan(), len(given.budgets) - 1),
    )


def slug(label: str) -> str:
    """Returns the folder's name for a label: ``diff-dcmha-rank-4`` for ``diff+dcmha(rank=4)``."""
    text = re.sub(r"[^a-z0-9._]+", "-", label.lower().replace("++", "pp")).strip("-.")
    if len(text) > LONGEST:  # a folder's name has at most 255 bytes
        text = f"{text[: LONGEST - 9]}-{zlib.crc32(label.encode()):08x}"
    return text or "variant"


def _planned(
    label: str, variant: Any, config: SoftmapConfig, peak: tuple[float, str], seeds: list[int]
) -> PlannedModel:
    return PlannedModel(
        label=label,
        slug=slug(label),
        spec=variant.label,
        title=variant.title,
        paper=variant.paper,
        source=variant.source,
        config=config,
        parameters=accounting.parameters(config),
        peak_lr=peak[0],
        peak_source=peak[1],
        seeds=tuple(seeds),
    )


def _control(recipe: Recipe, loaded: list[tuple[Entry, Any]], labels: list[str]) -> int:
    if recipe.control is None:
        return 0
    if recipe.control in labels:
        return labels.index(recipe.control)
    specs = [variant.label for _, variant in loaded]
    if recipe.control in specs:
        return specs.index(recipe.control)
    hint = nearest(recipe.control, labels) or f" (variants: {', '.join(labels)})"
    raise SoftmapError(f"control {recipe.control!r} is not among the variants{hint}")


def _config(
    recipe: Recipe, item: tuple[Entry, Any], vocab_size: int, width: int | None
) -> SoftmapConfig:
    entry, variant = item
    shape = recipe.model
    given = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    given |= {"max_position_embeddings": given.pop("context"), "intermediate_size": width}
    return _at(entry, SoftmapConfig, variant=variant.label, vocab_size=vocab_size, **given)


def _sized(recipe: Recipe, item: tuple[Entry, Any], vocab_size: int, target: int) -> SoftmapConfig:
    config = _config(recipe, item, vocab_size, None)
    width = _at(item[0], accounting.solve_intermediate_size, config, target)
    return _config(recipe, item, vocab_size, width)


def _peak(recipe: Recipe, entry: Entry, variant: Any, peaks: Peaks) -> tuple[float, str]:
    if entry.peak_lr is not None:
        return entry.peak_lr, "recipe"
    key = variant.label if entry.training is None else f"{variant.label} ({entry.training})"
    if key in peaks.by_variant:
        return peaks.by_variant[key], peaks.source
    if variant.peak_lr_hint is not None:
        return variant.peak_lr_hint, "hint"
    return recipe.training.peak_lr, "recipe"


def _at(entry: Entry, call: Any, *arguments: Any, **named: Any) -> Any:
    """Returns ``call(...)``; the entry's line precedes its errors."""
    try:
        return call(*arguments, **named)
    except SoftmapError as error:
        place = f"{entry.where}: " if entry.where else ""
        raise SoftmapError(f"{place}{error}") from None


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SoftmapError(f"two variants have the {what} {name!r}: give one another label")
        seen.add(name)
