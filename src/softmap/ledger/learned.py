"""Studies of tasks that models are trained on first, as ``softmap learn`` does."""

from __future__ import annotations

from pathlib import Path

from softmap.claims._claim import Learned
from softmap.lab.learn import Lesson, learn
from softmap.ledger.asked import parts
from softmap.ledger.judge import Part
from softmap.ledger.place import Workspace


def lesson(study: Learned, place: Workspace) -> tuple[Lesson, Path]:
    """Returns the lesson, and the folder that keeps it; all arms have equally many runs."""
    variants = [arm.variant for arm in study.models.values()]
    settings = {**study.settings, **place.settings}
    given = Lesson(
        study.task, variants, place.seeds, settings=settings, jobs=place.jobs, cluster=place.cluster
    )
    return given, place.folder / f"learn-{study.task}"


def measure(study: Learned, place: Workspace) -> list[Part]:
    """Train what is missing, and ask for instances that no training had."""
    given, folder = lesson(study, place)
    found = learn(given, folder, place.display())
    suite = found["suites"][study.task]
    seeds = {
        name: list(range(len(numbers["runs"])))
        for cell in suite["cells"]
        for name, numbers in cell["models"].items()
    }
    lost = {name: place.seeds - len(own) for name, own in seeds.items() if len(own) < place.seeds}
    return parts(study, suite, seeds, lost)
