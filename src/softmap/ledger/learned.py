"""Studies of tasks on which models are trained first, as ``softmap learn`` does."""

from __future__ import annotations

from pathlib import Path

from softmap.claims._claim import Learned
from softmap.lab.learn import LearnRequest, learn
from softmap.ledger.asked import parts
from softmap.ledger.judge import Part
from softmap.ledger.workspace import Workspace


def request(study: Learned, workspace: Workspace) -> tuple[LearnRequest, Path]:
    """Returns the request, and the folder that keeps its trainings; all arms have equally many
    runs.
    """
    variants = [arm.variant for arm in study.models.values()]
    settings = {**study.settings, **workspace.settings}
    given = LearnRequest(
        study.task,
        variants,
        workspace.seeds,
        settings=settings,
        jobs=workspace.jobs,
        cluster=workspace.cluster,
    )
    return given, workspace.folder / f"learn-{study.task}"


def measure(study: Learned, workspace: Workspace) -> list[Part]:
    """Train what is missing, and ask for instances that no training had; returns the findings."""
    given, folder = request(study, workspace)
    found = learn(given, folder, workspace.display())
    suite = found["suites"][study.task]
    seeds = {
        name: list(range(len(numbers["runs"])))
        for cell in suite["cells"]
        for name, numbers in cell["models"].items()
    }
    lost = {
        name: workspace.seeds - len(own)
        for name, own in seeds.items()
        if len(own) < workspace.seeds
    }
    return parts(study, suite, seeds, lost)
