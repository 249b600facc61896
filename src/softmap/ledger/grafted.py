"""Studies of grafts: a model of the base fine-tuned as it is and with edits put in."""

from __future__ import annotations

from typing import Any

from softmap.claims._claim import CONTROL, Grafted
from softmap.errors import SoftmapError
from softmap.lab import workbench
from softmap.lab.grafting.look import GraftRequest
from softmap.lab.grafting.run import graft
from softmap.lab.grafting.source import GraftSource
from softmap.ledger.judge import Part, differences
from softmap.ledger.workspace import Workspace


def request(study: Grafted, workspace: Workspace) -> GraftRequest:
    """What is fine-tuned: on the base's own text, in windows of its length.

    Raises ``SoftmapError`` where that is a mixture, which ``softmap graft`` does not take.
    """
    recipe = workspace.recipe(study.base, {})
    if not isinstance(recipe.data.data, str):
        raise SoftmapError(f"a graft takes one source of text, found {recipe.data.name}")
    given = {key: text for key, text in workspace.settings.items() if key.startswith("training.")}
    return GraftRequest(
        GraftSource.at(workspace.trial(study.base, CONTROL, 0)),
        [arm.variant for arm in study.arms],
        data=recipe.data.data, field=recipe.data.field, seeds=workspace.seeds, peaks=study.peaks,
        context=recipe.model.context, settings={**study.settings, **given},
        jobs=workspace.engine.jobs, cache=workspace.folder / workbench.CACHE,
        command=workspace.command,
    )  # fmt: skip


def measure(study: Grafted, workspace: Workspace) -> list[Part]:
    """Fine-tune what is missing; the held-out losses of all that lived."""
    folder = workspace.folder / f"graft-{study.base.name}"
    return [
        part(study, graft(request(study, workspace), folder, workspace.display()), workspace.seeds)
    ]


def part(study: Grafted, found: dict[str, Any], number: int) -> Part:
    """From what ``softmap graft`` gives for ``number`` fine-tunings of each."""
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
