"""Do all layouts of several processes train the same model? Loss curves beside plain FSDP's.

    torchrun --nproc-per-node 4 benchmarks/layouts.py --out results/layouts-cpu.json

Each layout trains the same model on the same batches, so on equal tokens a step. Kept: the last
loss, the largest difference of any step's loss and gradient norm from plain FSDP's, and the median
step's time as a ratio to it (of processes that share these cores; on GPUs, of GPUs).
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softmap.data import order
from softmap.hf import SoftmapConfig, SoftmapForCausalLM
from softmap.lab.machine import provenance
from softmap.lab.preflight import choose_device
from softmap.train import Layout, Parallel, TrainingOptions, train
from softmap.train.processes import processes, ranks

VARIANTS = ("transformer++", "dcmha")
SHAPE = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
OPTIONS = TrainingOptions(
    steps=12, batch_size=8, micro_batch_size=1, context=63, peak_lr=3e-3, warmup=4, log_every=1
)


def layouts(count: int) -> dict[str, Layout]:
    return {
        "fsdp": Layout(shard="all"),
        "ddp": Layout(),
        "hsdp": Layout(shard=count // 2),
        "fsdp, block": Layout(shard="all", activations="block"),
        "fsdp, selective": Layout(shard="all", activations="selective"),
        "fsdp + context 2": Layout(shard="all", context=2),
        f"fsdp + context {count}": Layout(shard="all", context=count),
        f"ddp + context {count}": Layout(context=count),
    }


def curve(variant: str, parallel: Parallel, folder: Path) -> list[dict[str, float]]:
    """The log of one training."""
    torch.manual_seed(0)
    model: Any = SoftmapForCausalLM(SoftmapConfig(variant=variant, **SHAPE)).to(parallel.device)
    text = np.frombuffer(Path(inspect.__file__).read_bytes(), np.uint8)
    shape = {"batch_size": OPTIONS.batch_size, "context": OPTIONS.context}
    rows = parallel.rows(OPTIONS.batch_size)

    def batches(step: int) -> torch.Tensor:
        return torch.from_numpy(order.batch(text, seed=0, step=step, rows=rows, **shape))

    train(model, batches, OPTIONS, folder, parallel=parallel)
    lines = parallel.by_first(lambda: (folder / "train.jsonl").read_text().splitlines())
    return [json.loads(line) for line in lines]


def table(parallel: Parallel, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        logs = {
            name: curve(variant, type(parallel)(parallel.device, layout, parallel.rank, ranks()),
                        folder / variant / name)
            for name, layout in layouts(ranks()).items()
        }  # fmt: skip
        base = logs["fsdp"]
        found[variant] = {name: beside(log, base) for name, log in logs.items()}
    return found


def beside(log: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    pairs = list(zip(log, base, strict=True))
    speeds = [1 / line["tokens_per_second"] for line in log[1:]]
    of_base = [1 / line["tokens_per_second"] for line in base[1:]]
    return {
        "loss": round(log[-1]["loss"], 6),
        "loss_difference": max(abs(a["loss"] - b["loss"]) for a, b in pairs),
        "norm_difference": max(abs(a["grad_norm"] - b["grad_norm"]) for a, b in pairs),
        "step_time_ratio": round(statistics.median(speeds) / statistics.median(of_base), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    began = time.time()
    with processes(Layout(), choose_device("auto"), {}) as parallel:
        folder = Path(parallel.by_first(lambda: tempfile.mkdtemp()))
        rows = table(parallel, folder)
        if parallel.rank == 0:
            facts = {"ranks": ranks(), "shape": SHAPE, "options": OPTIONS.identity()}
            text = json.dumps(
                {
                    **provenance(parallel.device),
                    **facts,
                    "seconds": time.time() - began,
                    "rows": rows,
                },
                indent=1,
            )
            out.write_text(text + "\n")


if __name__ == "__main__":
    main()
