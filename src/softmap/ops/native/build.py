"""Compile the C++ edits once, with the compiler at hand, into a cache; load them in torch.

The cache is ``$SOFTMAP_CACHE``, else ``softmap`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. A build is
named by the hash of the sources, the flags, the compiler and PyTorch's version, so a new version of
any of them makes a new one. Processes that race for a build wait for the one that makes it; a build
that is killed leaves nothing that another would take for a library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from softmap.errors import SoftmapError

SOURCES = Path(__file__).parent / "csrc"
# PyTorch's portable vectors take the width that they are compiled for.
_VECTORS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}


@cache
def missing() -> str | None:
    """Why nothing can be built or loaded here, or None."""
    if sys.platform != "linux":
        return f"native code is built on Linux only, found {sys.platform}"
    try:
        load()
    except SoftmapError as error:
        return str(error)
    return None


@cache
def load() -> Path:
    """Build the library if need be, and register its operators. Raises ``ValueError`` if it
    cannot: there is no compiler, it fails, or the cache cannot be written."""
    compiler = find_compiler()
    if compiler is None:
        raise SoftmapError("native code needs a C++ compiler: set CXX, or install g++ or clang++")
    path = build(compiler)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise SoftmapError(f"cannot load {path}: {error}") from error
    return path


def find_compiler() -> str | None:
    """``$CXX`` if it is set, else g++ or clang++."""
    named = os.environ.get("CXX")
    if named is not None:
        return shutil.which(named)
    return shutil.which("g++") or shutil.which("clang++")


def build(compiler: str) -> Path:
    """The library's path; compiled first where the cache lacks it."""
    command = [compiler, *flags()]
    path = cache_folder() / f"native-{fingerprint(command)}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.exists():  # another process may have made it while this one waited
                _compile(command, path)
    except OSError as error:
        raise SoftmapError(f"cannot build native code in {path.parent}: {error}") from error
    return path


def _compile(command: list[str], path: Path) -> None:
    print(
        f"softmap: compiling native code once into {path.parent} ...", file=sys.stderr, flush=True
    )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        whole = [*command, str(SOURCES / "bindings.cpp"), "-o", str(made), *_libraries()]
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line]
            why = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]
            raise SoftmapError(f"{command[0]} could not compile native code: {why.strip()}")
        os.replace(made, path)


def flags() -> list[str]:
    """Optimised for the vectors that PyTorch itself uses on this machine."""
    capability = torch.backends.cpu.get_cpu_capability()
    vectors = _VECTORS.get(capability, [])
    name = capability if vectors else "DEFAULT"
    return [
        "-O3", "-std=c++20", "-shared", "-fPIC", "-fopenmp", "-w",
        *vectors, f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}",
        f"-I{_torch() / 'include'}", f"-I{_torch() / 'include/torch/csrc/api/include'}",
    ]  # fmt: skip


def fingerprint(command: list[str]) -> str:
    """Of everything that the library depends on."""
    version = subprocess.run(
        [command[0], "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = hashlib.sha256("\0".join([torch.__version__, version, *command]).encode())
    for source in sorted(SOURCES.rglob("*.*")):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def cache_folder() -> Path:
    """Where builds are kept."""
    own = os.environ.get("SOFTMAP_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softmap"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it when that process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _torch() -> Path:
    return Path(torch.__file__).parent


def _libraries() -> list[str]:
    folder = _torch() / "lib"
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", "-ltorch_cpu", "-lc10"]
