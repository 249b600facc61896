"""Rates of a machine by unit, and the least time that some work takes on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from softmap.bench.clock import Clock
from softmap.bench.work import Work

# Results a clock at compute capability 9.0, CUDA C++ programming guide, arithmetic throughput:
# 16 of exp2, 128 float32 multiply-adds.
EXPS_PER_SM, FLOPS_PER_SM = 16, 256
REPEATS = 25  # of exp on one block


@dataclass(frozen=True)
class Machine:
    """Operations a second by unit, bytes a second.

    shared: products, vector and exp are issued by the same units (a CPU's), so their times add up;
    otherwise (a GPU) the units overlap and the slowest counts. held: see ``arithmetic``.
    """

    name: str
    products: float
    vector: float
    exp: float
    bytes: float
    shared: bool
    held: bool
    source: str

    def seconds(self, work: Work) -> dict[str, float]:
        """The least time of each unit alone."""
        rates = (self.products, self.vector, self.exp, self.bytes)
        return {n: a / r for n, a, r in zip(work._fields, work, rates, strict=True)}

    def floor(self, work: Work) -> float:
        """The least time of the whole, in seconds."""
        units = self.seconds(work)
        if not self.shared:
            return max(units.values())
        memory = units.pop("bytes")
        return max(sum(units.values()), memory)

    def unhidden(self, work: Work) -> float:
        """The time if no unit worked beside another."""
        return sum(self.seconds(work).values())

    def record(self) -> dict[str, Any]:
        return asdict(self)


H100 = Machine(
    name="NVIDIA H100 SXM",
    products=790e12,
    vector=67e12,
    exp=3.9e12,
    bytes=3.0e12,
    shared=False,
    held=False,
    source="products (bf16) and bytes measured on such a machine; vector: NVIDIA's H100 datasheet, "
    "FP32; exp: 16 results a clock on each of 132 SMs at 1.83 GHz (CUDA C++ programming guide)",
)


def measured(device: torch.device, dtype: torch.dtype) -> Machine:
    """The machine that this runs on, measured in about a second.

    Products: a large matrix product in ``dtype``. Bytes: a copy of 256 MB. On a CPU the vector rate
    is that of a float32 product (the same units do both) and exp is timed on a block that stays in
    cache; on a GPU both follow from the number of SMs and their clock.
    """
    with torch.no_grad():
        products = _products(device, dtype)
        copy = torch.empty(1 << 26, dtype=torch.float32, device=device)
        into = torch.empty_like(copy)
        moved = 2 * copy.numel() * 4 / _best(lambda: into.copy_(copy), device, 20)
        if device.type == "cuda":
            return _gpu(device, products, moved)
        vector = _products(device, torch.float32)
        block = torch.rand(1 << 17)  # enough for torch to use its threads
        exps = REPEATS * block.numel() / _best(lambda: _repeat(block), device, 20)
    return Machine(
        "this machine", products, vector, exps, moved, True, True,
        "measured in the same run; vector: the rate of a float32 product",
    )  # fmt: skip


def _gpu(device: torch.device, products: float, moved: float) -> Machine:
    found = torch.cuda.get_device_properties(device)
    clock = getattr(found, "clock_rate", 0) * 1e3 or 1.83e9
    sms = found.multi_processor_count * clock
    return Machine(
        found.name, products, sms * FLOPS_PER_SM, sms * EXPS_PER_SM, moved, False, False,
        "products and bytes measured in the same run; vector and exp: SMs x clock x the "
        "CUDA guide's results a clock",
    )  # fmt: skip


def _products(device: torch.device, dtype: torch.dtype) -> float:
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=dtype)
    return 2 * n**3 / _best(lambda: torch.matmul(a, b, out=out), device, 40)


def _repeat(block: torch.Tensor) -> None:
    out = torch.empty_like(block)
    for _ in range(REPEATS):
        torch.exp(block, out=out)


def _best(run: Callable[[], Any], device: torch.device, count: int) -> float:
    """The fastest of some calls: a floor must not be raised by what else the machine does."""
    if device.type == "cuda":
        run()
        clock = Clock(device)
        return min(clock.seconds(lambda _: run()) for _ in range(count))
    times = []
    for _ in range(count):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
