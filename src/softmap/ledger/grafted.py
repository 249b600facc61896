"""Studies of grafts: a model of the base is fine-tuned unchanged and with edits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softmap.claims._claim import CONTROL, Grafted
from softmap.errors import SoftmapError
from softmap.lab import workbench
from softmap.lab.grafting.preparation import GraftRequest
from softmap.lab.grafting.run import graft
from softmap.lab.grafting.source import GraftSource
from softmap.lab.plan import slug
from softmap.ledger.judge import Part, differences
from softmap.ledger.workspace import Workspace


def folder(study: Grafted, workspace: Workspace) -> Path:
    """Returns the folder that keeps the study's fine-tunings."""
    return workspace.folder / f"graft-{study.base.name}"


def settings(study: Grafted, workspace: Workspace) -> dict[str, str]:
    """Returns the settings of the fine-tunings: the study's, then those given for all recipes."""
    given = {key: text for key, text in workspace.settings.items() if key.startswith("training.")}
    return {**study.settings, **given}


def missing(study: Grafted, workspace: Workspace) -> int:
    """Returns the number of fine-tunings without a result, those that choose a peak included."""
    tuning = len(study.peaks) if len(study.peaks) > 1 else 0
    kept = [
        path
        for arm in study.variants.values()
        for path in (folder(study, workspace) / slug(arm.variant)).glob("*/grafted.json")
    ]
    return max(0, len(study.variants) * (tuning + workspace.seeds) - len(kept))


def request(study: Grafted, workspace: Workspace) -> GraftRequest:
    """Returns the request: fine-tuning on the base's own text, in windows of its length.

    Raises ``SoftmapError`` where that text is a mixture, which ``softmap graft`` does not take.
    """
    recipe = workspace.recipe(study.base, {})
    if not isinstance(recipe.data.data, str):
        raise SoftmapError(f"a graft takes one source of text, found several: {recipe.data.name}")
    return GraftRequest(
        GraftSource.at(workspace.trial(study.base, CONTROL, 0)),
        [arm.variant for arm in study.arms],
        data=recipe.data.data, field=recipe.data.field, seeds=workspace.seeds, peaks=study.peaks,
        context=recipe.model.context, settings=settings(study, workspace),
        jobs=workspace.engine.jobs, cache=workspace.folder / workbench.CACHE,
        command=workspace.command,
    )  # fmt: skip


def measure(study: Grafted, workspace: Workspace) -> list[Part]:
    """Fine-tune what is missing; returns the held-out losses of all trainings that did not
    diverge.
    """
    found = graft(request(study, workspace), folder(study, workspace), workspace.display())
    return [part(study, found, workspace.seeds)]


def part(study: Grafted, found: dict[str, Any], number: int) -> Part:
    """Returns the findings of ``softmap graft`` with ``number`` fine-tunings of each arm."""
    cells = found["suites"]["loss"]["cells"]
    cell = next(one for one in cells if one["measure"] == "loss" and one["at"] is None)
    values = {
        name: {int(run.removeprefix("seed")): one["mean"] for run, one in mine["runs"].items()}
        for name, mine in cell["models"].items()
    }
    lost = {name: number - len(values.get(name, ())) for name in study.variants}
    diverged = {name: count for name, count in lost.items() if count}
    notes = [
        f"{start['label']} starts {abs(start['after'] - start['before']):.2g} nats from the model"
        for start in found["graft"]
    ]
    return Part(study.measure, values, differences(study, values, diverged), diverged, notes=notes)
