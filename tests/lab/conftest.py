from __future__ import annotations

from pathlib import Path

import lab_tiny
import pytest

from softmap.lab import recipe as recipes


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run, with its page. Not to be written to."""
    from softmap.lab.compare import Request, compare

    folder = tmp_path_factory.mktemp("finished")
    recipe = recipes.load(lab_tiny.write_recipe(folder))
    return compare(recipe, Request(folder / "runs", "softmap compare tiny.yaml")).parent


@pytest.fixture(autouse=True)
def one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers take seconds to start, and know nothing of what a test has replaced."""
    monkeypatch.setattr("softmap.lab.workers.default_jobs", lambda *_: 1)
    monkeypatch.setattr("softmap.lab.compare.measure_speed", lambda *_: None)


@pytest.fixture
def tiny(tmp_path: Path) -> recipes.Recipe:
    return recipes.load(lab_tiny.write_recipe(tmp_path))


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take seconds to draw; most tests look at other files."""
    monkeypatch.setattr("softmap.report.build", lambda folder: Path(folder) / "report.html")
