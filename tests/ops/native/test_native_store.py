"""The folder of builds: each is made once, whole or not at all; the newest few are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softmap.ops.native import store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOFTMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(text: str):  # type: ignore[no-untyped-def]
    return lambda path: path.write_text(text)


def never(path: Path) -> None:
    raise AssertionError("built again")


@pytest.mark.usefixtures("folder")
def test_built_once_and_again_if_it_is_cut_short() -> None:
    path = store.library("native-a", made("whole"))
    assert store.library("native-a", never) == path
    path.write_text("wh")
    assert store.library("native-a", made("whole")).read_text() == "whole"
    path.with_suffix(".sha256").unlink()
    assert store.library("native-a", made("other")).read_text() == "other"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("which", [".so", ".sha256"])
def test_junk_means_another_build(which: str) -> None:
    path = store.library("native-a", made("whole"))
    place = path.with_suffix(which)
    for junk in (b"", b"\xff\x00", place.read_bytes() + b"\n", place.read_bytes()[::-1]):
        place.write_bytes(junk)
        assert store.library("native-a", made("whole")).read_text() == "whole"
        assert store.library("native-a", never) == path
    place.unlink()
    place.mkdir()
    assert store.library("native-a", made("whole")).read_text() == "whole"


@pytest.mark.usefixtures("folder")
def test_a_build_that_fails_leaves_nothing() -> None:
    def half(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        store.library("native-a", half)
    assert [p.name for p in store.folder().iterdir()] == ["native.lock"]


@pytest.mark.usefixtures("folder")
def test_the_newest_builds_are_kept() -> None:
    for n in range(store.KEPT + 3):
        path = store.library(f"native-{n}", made(str(n)))
        os.utime(path, (n, n))
        if n > 2:
            os.utime(store.folder() / "native-2.so", (n, n))  # in use
    left = {p.stem for p in store.folder().glob("*.so")}
    assert left == {"native-2"} | {f"native-{n}" for n in range(4, store.KEPT + 3)}
    assert left == {p.stem for p in store.folder().glob("*.sha256")}


def python(code: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "SOFTMAP_CACHE": str(folder)}
    )


BUILDER = """
import time
from softmap.ops.native import store
def make(path):
    with open(store.folder() / "log", "a") as log:
        log.write("started ")
    path.write_text("half")
    time.sleep({seconds})
    path.write_text("whole")
print(store.library("native-a", make))
"""


@pytest.mark.slow
def test_processes_that_race_build_once(folder: Path) -> None:
    racers = [python(BUILDER.format(seconds=0.5), folder) for _ in range(3)]
    assert [r.wait(60) for r in racers] == [0, 0, 0]
    assert (folder / "log").read_text() == "started "
    assert (folder / "native-a.so").read_text() == "whole"


def test_a_builder_that_is_killed_leaves_no_library_and_no_lock(folder: Path) -> None:
    builder = python(BUILDER.format(seconds=600), folder)
    while not list(folder.glob("building-*/native-a.so")):
        assert builder.poll() is None
        time.sleep(0.05)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert not list(folder.glob("*.so"))
    assert store.library("native-a", made("whole")).read_text() == "whole"
    assert not list(folder.glob("building-*"))
