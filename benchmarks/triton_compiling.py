"""Kernels compiled for a GPU that is not there: what they need, and that they compile at all."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton_wavefronts import wavefronts

from softmap.ops.triton.common import launching

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class _Absent:
    """Stands for the driver of a GPU of that compute capability."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def compiling(capability: int = 90) -> Iterator[list[dict[str, Any]]]:
    """Every launch inside only compiles its kernel; yields what each needs, in order.

    kernel, phase, heads (of a tile), rows, keys, piece (of the width), warps, stages; registers
    (a thread), spilled (bytes a thread: the local memory that ptxas reserved), shared (bytes a
    program), loops (instructions of a warp in a turn of each loop over tiles), wavefronts (cycles
    of shared memory in such a turn, of all warps), seconds.
    """
    found: list[dict[str, Any]] = []

    def compile_(kernel: Any, grid: Any, *args: Any, **options: Any) -> None:
        begin = time.perf_counter()
        binary = kernel.warmup(*args, grid=grid, **options)
        row = {"kernel": kernel.fn.__name__, "phase": options.get("PHASE")}
        sizes = {"heads": "HT", "rows": "BM", "keys": "BN", "piece": "DC", "warps": "num_warps",
                 "stages": "num_stages"}  # fmt: skip
        row |= {name: options.get(key) for name, key in sizes.items()}
        row |= usage(binary.asm["cubin"]) | {"shared": binary.metadata.shared}
        row["loops"] = loops(binary.asm["cubin"])
        row["wavefronts"] = wavefronts(binary.asm["ptx"], 32 * row["warps"])
        found.append(row | {"seconds": round(time.perf_counter() - begin, 2)})

    with warnings.catch_warnings(), launching(compile_):
        warnings.simplefilter("ignore", UserWarning)
        # ``driver.active`` would look for a GPU here; before 3.8 it is a lazy proxy.
        before = vars(driver).get("_active", vars(driver).get("active"))
        driver.set_active(_Absent(capability))
        try:
            yield found
        finally:
            driver.set_active(before)


def usage(cubin: bytes) -> dict[str, int]:
    """Registers and bytes of local memory (spills) per thread, by Triton's own ``cuobjdump``."""
    text = _tool("-res-usage", cubin)
    numbers = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": numbers["REG"], "spilled": numbers["STACK"] + numbers["LOCAL"]}


def _tool(option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# In the assembler's listing: every instruction's place, and every branch with where it goes.
PLACE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/", re.M)
BRANCH = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?BRA[^;]*?0x([0-9a-f]+) ;")


def loops(cubin: bytes) -> list[int]:
    """Instructions of a warp in one turn of each outer loop, in order, inner loops counted once."""
    text = _tool("-sass", cubin)
    places = [int(at, 16) for at in PLACE.findall(text)]
    jumps = [(int(to, 16), int(at, 16)) for at, to in BRANCH.findall(text)]
    outer: list[tuple[int, int]] = []
    for first, last in sorted((to, at) for to, at in jumps if to < at):
        if not outer or first > outer[-1][1]:
            outer.append((first, last))
    return [sum(first <= at <= last for at in places) for first, last in outer]


def available() -> bool:
    """Whether the assembler and the reader of its output are there."""
    return (TOOLS / "ptxas").exists() and (TOOLS / "cuobjdump").exists()
