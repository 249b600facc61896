"""Built once, whole or not at all; without a compiler one clear line, and auto goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from native_cases import Case

from softmap.errors import SoftmapError
from softmap.ops import choose, compiled, explain
from softmap.ops.native import build


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing remembered of this machine."""
    monkeypatch.setenv("SOFTMAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_missing", build._missing.__wrapped__)
    return tmp_path / "cache"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def one_line(why: str | None, *parts: str) -> None:
    assert why is not None
    assert "\n" not in why
    for part in parts:
        assert part in why


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("named", ["", "no-such-compiler -O1", None])
def test_no_compiler(named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if named is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setenv("CXX", named)
    # What Inductor finds it remembers for the whole process.
    monkeypatch.setattr(compiled, "missing_compiler", lambda device: f"none for {device}")
    one_line(build.missing(), "native code needs a C++ compiler", repr(named) if named else "")
    for variant, next_best in {"dcmha": "chunked", "diff": "folded"}.items():
        call = Case(variant, tokens=5).call()
        assert choose(call) == next_best
        one_line(dict(explain(call))["native"], "needs a C++ compiler")
        with pytest.raises(SoftmapError, match="cannot run this: native code needs a C"):
            choose(call, "native")


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("echo 'a.h:1: fatal error: no space left' >&2; exit 1", "fatal error: no space left"),
        ("exit 3", "exit code 3"),
        ("kill -9 $$", "exit code -9"),
    ],
)
def test_a_compiler_that_fails(
    does: str, told: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "c++", f'[ "$1" = --version ] && exit 0; {does}'))
    one_line(build.missing(), "could not compile native code", told)
    assert [p.name for p in folder.iterdir()] == ["native.lock"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "does", ["exit 0", 'while [ "$1" ]; do [ "$1" = -o ] && echo half > "$2"; shift; done; exit 0']
)
def test_a_compiler_that_makes_nothing(
    does: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "c++", does))
    one_line(build.missing(), "cannot build native code")


@pytest.mark.usefixtures("folder")
def test_a_compiler_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "c++", "").strip())
    (tmp_path / "c++").write_text("#!/no/such/shell\n")
    one_line(build.missing(), "cannot build native code")


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file where the folder should be")
    one_line(build.missing(), "cannot build native code", str(folder))
    monkeypatch.setenv("SOFTMAP_CACHE", "/proc/no/such")
    one_line(build.missing(), "cannot build native code")


def test_progress_goes_to_stderr(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "c++", "exit 1"))
    build.missing()
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == f"softmap: compiling native code once into {folder} ...\n"


def test_a_build_is_named_by_all_that_it_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {build.fingerprint(["true", *build.flags()]), build.fingerprint(["true", "-O1"])}
    monkeypatch.setattr(torch, "__version__", "0")
    names.add(build.fingerprint(["true", "-O1"]))
    monkeypatch.setattr(build, "SOURCES", build.SOURCES / "edits")
    names.add(build.fingerprint(["true", "-O1"]))
    assert len(names) == 4


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_vectors(capability: str, tmp_path: Path) -> None:
    """The kernels for processors with narrower vectors, or none, against the reference."""
    tests = [Path(__file__).parent / f"test_native_{n}.py" for n in ("reference", "precision")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider", *tests],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_sources_are_shipped() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    shipped = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]["softmap"]
    package = build.SOURCES.parents[2]
    found = {path for pattern in shipped for path in package.glob(pattern)}
    assert {p for p in build.SOURCES.rglob("*") if p.is_file()} <= found
