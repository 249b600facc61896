"""Compiles the C++ edits once, with the compiler at hand, into a cache, and loads them in
torch.

A build is named by the hash of the sources, the flags, the compiler and PyTorch's version, so a new
version of any of them makes a new one. ``store`` decides where builds are kept, and what happens
when processes race for one or are killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from softmap.errors import SoftmapError
from softmap.ops.native import operator, store

SOURCES = Path(__file__).parent / "csrc"
_UNITS = ("bindings", "double")  # compiled side by side
# PyTorch's portable vectors take the width that they are compiled for.
_VECTORS = {
    "AVX512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}
_ONE_AT_A_TIME = threading.Lock()


def missing() -> str | None:
    """Returns why nothing can be built or loaded here, or None: then the operators are ready."""
    with _ONE_AT_A_TIME:
        return _missing()


# As torch.compiler.assume_constant_result does; that would import the compiler now.
missing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def ready() -> None:
    """Raise ``ValueError`` unless the operators are available."""
    why = missing()
    if why is not None:
        raise SoftmapError(why)


@cache
def _missing() -> str | None:
    if sys.platform != "linux":
        return f"native code is built on Linux only, found {sys.platform}"
    try:
        load()
    except SoftmapError as error:
        return str(error)
    return None


def load() -> Path:
    """Build the library if need be, and register its operators. Raises ``ValueError`` if it
    cannot: there is no compiler, it fails, or the cache cannot be written.
    """
    command = [*compiler(), *flags()]
    try:
        path = store.library(f"native-{fingerprint(command)}", lambda to: _compile(command, to))
        torch.ops.load_library(str(path))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SoftmapError(f"cannot build native code: {error}") from error
    operator.register()
    return path


def compiler() -> list[str]:
    """Returns ``$CXX``, which may include options, else g++ or clang++."""
    named = os.environ.get("CXX")
    if named is None:
        found = shutil.which("g++") or shutil.which("clang++")
        if found is None:
            raise SoftmapError("native code needs a C++ compiler: install g++ or clang++")
        return [found]
    words = named.split()
    if not words or shutil.which(words[0]) is None:
        raise SoftmapError(f"native code needs a C++ compiler: CXX={named!r} is none")
    return words


def _compile(command: list[str], to: Path) -> None:
    at = store.folder()
    print(f"softmap: compiling native code once into {at} ...", file=sys.stderr, flush=True)
    objects = {unit: str(to.with_name(f"{unit}.o")) for unit in _UNITS}
    units = [[*command, "-c", str(SOURCES / f"{u}.cpp"), "-o", o] for u, o in objects.items()]
    with ThreadPoolExecutor(len(units)) as pool:
        list(pool.map(_run, units))
    _run([*command, "-shared", *objects.values(), "-o", str(to), *_libraries()])


def _run(command: list[str]) -> None:
    """Run the compiler; raises ``ValueError`` with its first error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        why = (lines or done.stderr.splitlines() or [f"exit code {done.returncode}"])[0]
        raise SoftmapError(f"{command[0]} could not compile native code: {why.strip()}")


def flags() -> list[str]:
    """Returns flags for the vector instructions that PyTorch itself uses on this machine."""
    capability = torch.backends.cpu.get_cpu_capability()
    vectors = _VECTORS.get(capability, [])
    name = capability if vectors else "DEFAULT"
    return [
        "-O3", "-std=c++20", "-fPIC", "-fopenmp", "-w",
        *vectors, f"-DCPU_CAPABILITY={name}", f"-DCPU_CAPABILITY_{name}",
        f"-I{_torch() / 'include'}", f"-I{_torch() / 'include/torch/csrc/api/include'}",
    ]  # fmt: skip


def fingerprint(command: list[str]) -> str:
    """Returns a hash of everything that the library depends on."""
    version = subprocess.run(
        [command[0], "--version"], capture_output=True, text=True, check=False
    ).stdout
    found = hashlib.sha256("\0".join([torch.__version__, version, *command]).encode())
    for source in sorted(SOURCES.rglob("*.*")):
        found.update(source.read_bytes())
    return found.hexdigest()[:16]


def _torch() -> Path:
    return Path(torch.__file__).parent


def _libraries() -> list[str]:
    folder = _torch() / "lib"
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", "-ltorch_cpu", "-lc10"]
