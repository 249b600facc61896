"""Facts of GPUs, from their makers' public pages: FLOPs without sparsity, decimal bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from softmap.errors import SoftmapError, nearest_or_all, shown

GIB = 2**30
MOST = 2**20  #: GPUs of a job


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU and the machine that it is in.

    Attributes:
        flops: peak operations per second by dtype: of matrix products in bf16, and in fp32 (without
            TF32, torch's default), which is also what element-wise work reaches.
        memory: bytes.
        bandwidth: bytes per second of the memory.
        link: bytes per second that a GPU sends to the others of its machine, which has ``machine``
            GPUs.
        network: bytes per second to other machines.
        devices: torch's names of it.
        sources: where the numbers are from.
    """

    name: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    link: float
    network: float
    devices: tuple[str, ...]
    sources: tuple[str, ...]
    machine: int = 8


# Makers state links in both directions together: half of that is sent. Networks are those of the
# makers' own machines, an adapter for each GPU: 200 Gbit/s (DGX A100), 400 Gbit/s (the others).
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "a100", {"bf16": 312e12, "fp32": 19.5e12}, 80e9, 2.039e12, 300e9, 25e9,
            ("NVIDIA A100-SXM4-80GB",),
            ("https://www.nvidia.com/en-us/data-center/a100/",
             "https://docs.nvidia.com/dgx/dgxa100-user-guide/"),
        ),
        Gpu(
            "h100", {"bf16": 989.4e12, "fp32": 66.9e12}, 80e9, 3.35e12, 450e9, 50e9,
            ("NVIDIA H100 80GB HBM3",),
            ("https://www.nvidia.com/en-us/data-center/h100/",
             "https://docs.nvidia.com/dgx/dgxh100-user-guide/"),
        ),
        Gpu(
            "h200", {"bf16": 989.4e12, "fp32": 66.9e12}, 141e9, 4.8e12, 450e9, 50e9,
            ("NVIDIA H200",),
            ("https://www.nvidia.com/en-us/data-center/h200/",
             "https://docs.nvidia.com/dgx/dgxh100-user-guide/"),
        ),
        Gpu(
            "b200", {"bf16": 2250e12, "fp32": 80e12}, 180e9, 8.0e12, 900e9, 50e9,
            ("NVIDIA B200",),
            ("https://www.nvidia.com/en-us/data-center/dgx-b200/",
             "https://docs.nvidia.com/dgx/dgxb200-user-guide/"),
        ),
        Gpu(
            "mi300x", {"bf16": 1307.4e12, "fp32": 163.4e12}, 192e9, 5.3e12, 448e9, 50e9,
            ("AMD Instinct MI300X",),
            ("https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html",
             "https://www.amd.com/en/products/accelerators/instinct/mi300/platform.html"),
        ),
    )
}  # fmt: skip


def find(name: str) -> Gpu:
    """Returns a GPU by its short name; raises ``SoftmapError`` for an unknown one."""
    if name.lower() not in GPUS:
        raise SoftmapError(f"no facts of a GPU {shown(name)}{nearest_or_all(name.lower(), GPUS)}")
    return GPUS[name.lower()]


def of_device(name: str) -> Gpu | None:
    """Returns the GPU that torch calls by this name; None for a CPU and for an unknown one."""
    return next((gpu for gpu in GPUS.values() if name in gpu.devices), None)


def parse(text: str) -> tuple[int, Gpu]:
    """Returns the number and the kind of GPUs in ``256xh100``; raises ``SoftmapError`` for
    anything else.
    """
    found = re.fullmatch(r"([0-9]{1,7})x(.+)", text.strip())
    if not found or not 1 <= int(found[1]) <= MOST:
        raise SoftmapError(
            f"--gpus: expected a number up to {MOST:,} and a kind, such as 256xh100, found "
            f"{shown(text)}"
        )
    return int(found[1]), find(found[2])
