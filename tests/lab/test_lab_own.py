"""A variant of one's own, begun and tested from the shell."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

from softmap.__main__ import main
from softmap.errors import SoftmapError
from softmap.lab.own import STAGES, written

CHECKED = ("edits", "map", "chunked")


@pytest.mark.parametrize("stage", STAGES)
def test_what_new_writes_passes(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my-edit", "--stage", stage]) == 0
    assert capfd.readouterr().out.split() == ["my_edit.py", "test_my_edit.py"]
    runpy.run_path("test_my_edit.py")  # all that it imports is there
    assert main(["check", "my_edit.py:my-edit", "--only", *CHECKED]) == 0
    assert [line.split() for line in capfd.readouterr().out.splitlines()] == [
        ["pass", name] for name in CHECKED
    ]


def test_a_check_that_fails_is_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [path, _] = written("wrong", "scores")
    text = written("wrong", "scores")[path]
    path.write_text(text.replace(".to(m.dtype) * m", ".to(m.dtype) * m + m.cumsum(-1).flip(-1)"))
    assert main(["check", "wrong.py:wrong", "--only", "causality,map"]) == 1
    assert capfd.readouterr().out.startswith("FAIL  causality")


def test_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("test_mine.py").write_text("kept")
    assert main(["new", "mine"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert os.listdir() == ["test_mine.py"] and Path("test_mine.py").read_text() == "kept"


@pytest.mark.parametrize("name", ["", "My-Edit", "a b", "-x", "class", "../up", "a--b"])
def test_a_name_is_told(name: str) -> None:
    with pytest.raises(SoftmapError, match="expected lower-case letters") as error:
        written(name, "scores")
    assert "\n" not in str(error.value)
