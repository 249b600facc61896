"""What ``softmap plan`` says of small models beside what torch counts as they take a step.

    python benchmarks/plan.py --out results/plan-cpu.json

Each row is a layout: in one process, or in two on gloo. Parameters are those of the model. Memory
is the most bytes of tensors alive in a step, as ``softmap.cost.LiveBytes`` counts storages; on a
GPU ``torch.cuda.max_memory_allocated``. FLOPs are torch's own count (``FlopCounterMode``) of
products, masked halves included, since ``reference`` computes them; those of the edits are in
them, and not in what is predicted, as the plan counts edits' other operations with them. Bytes sent
are those of the tensors that collectives were given, as rings send them. All of rank 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VARIANTS = ("transformer++", "diff", "dcmha", "dape")
SHAPE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 1024}
CONTEXT, BATCH = 128, 8
SCALARS = 4096  #: bytes up to which a collective carries counts and norms

#: (ranks, layout, precision, sequences at once)
CASES: dict[str, tuple[int, dict[str, Any], str, int | None]] = {
    "fp32": (1, {}, "fp32", None),
    "bf16": (1, {}, "bf16", None),
    "bf16, selective": (1, {"activations": "selective"}, "bf16", None),
    "bf16, block": (1, {"activations": "block"}, "bf16", None),
    "fp32, accumulated": (1, {}, "fp32", 2),
    "DDP": (2, {}, "fp32", None),
    "FSDP": (2, {"shard": "all"}, "fp32", None),
    "FSDP, bf16, accumulated": (2, {"shard": "all"}, "bf16", 1),
    "FSDP, bf16, block": (2, {"shard": "all", "activations": "block"}, "bf16", None),
    "shared sequences": (2, {"context": 2}, "fp32", None),
}


class Sent(TorchDispatchMode):
    """Bytes that collectives send, by their names, as a ring of so many ranks does."""

    SHARES = {"_allgather_base_": 1, "_reduce_scatter_base_": 1, "allreduce_": 2}  # noqa: RUF012

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.ranks, self.by_name = ranks, Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        if func.namespace == "c10d" and name in self.SHARES:
            tensors = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            size = max(t.numel() * t.element_size() for t in tensors)
            if name == "allreduce_":
                size = sum(t.numel() * t.element_size() for t in tensors)
            if size > SCALARS:
                part = (self.ranks - 1) / self.ranks
                self.by_name[name] += self.SHARES[name] * part * size
        return func(*args, **(kwargs or {}))


def job(variant: str, case: str, sizes: dict[str, int]) -> Any:
    """What the plan is asked."""
    from softmap.cost import Job
    from softmap.nn import ModelConfig
    from softmap.train import Layout

    ranks, layout, precision, micro = CASES[case]
    shape = {name: sizes[name] for name in SHAPE}
    config = ModelConfig(variant=variant, max_position_embeddings=sizes["context"], **shape)
    return Job(config, sizes["context"], sizes["batch"], precision, Layout(**layout), ranks, micro)


def predicted(one: Any) -> dict[str, float]:
    from softmap.cost import memory, traffic
    from softmap.nn import accounting

    rows = one.context
    dense = accounting.forward_flops(one.config, 2 * rows - 1)  # rows that see all keys
    times = 4 if one.layout.activations == "block" else 3
    flops = 3 * dense.head + times * dense.products
    if one.layout.activations == "selective":  # `reference` multiplies its maps once more
        least = accounting.forward_flops(one.config, 1)  # rows that see one key
        flops += (dense.products - least.products) * rows / (rows - 1)
    found = memory(one)
    return {
        "parameters": one.sizes.total,
        "memory": found.total,
        "flops": flops * one.step_tokens / one.ranks,
        "sent": sum(traffic(one).by_kind.values()),
    }


def measured(one: Any, parallel: Any, device: torch.device) -> dict[str, float]:
    """The same of a second step: AdamW's moments are there."""
    from softmap.cost import LiveBytes
    from softmap.hf import SoftmapConfig, SoftmapForCausalLM
    from softmap.train import TrainingOptions
    from softmap.train.optim import adamw
    from softmap.train.step import train_step

    given = dataclasses.asdict(one.config) | {"impl": "chunked"}
    options = TrainingOptions(
        steps=10, batch_size=one.batch_size, context=one.context, peak_lr=1e-3, schedule="cosine",
        micro_batch_size=one.micro_batch_size, precision=one.precision,
    )  # fmt: skip
    rows = parallel.rows(one.batch_size)
    generator = torch.Generator().manual_seed(0)
    shape = (rows.stop - rows.start, one.context + 1)
    batch = torch.randint(one.config.vocab_size, shape, generator=generator)
    live, sent = LiveBytes([batch]), Sent(one.ranks)
    with live if device.type == "cpu" else torch.device(device):
        torch.manual_seed(0)
        model = SoftmapForCausalLM(SoftmapConfig(**given)).to(device)
        count = sum(p.numel() for p in model.parameters())
        forward = parallel.wrap(model, compile=False, precision=one.precision)
        optimizer = adamw(model, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95))
        step = (forward, optimizer, batch, 1e-3, options, parallel)
        train_step(*step)
        live.curve.clear()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train_step(*step)
    peak = live.peak if device.type == "cpu" else torch.cuda.max_memory_allocated()
    with sent:
        train_step(*step)
    return {"parameters": count, "memory": peak, "sent": sum(sent.by_name.values())}


def counted(one: Any, parallel: Any, device: torch.device) -> float:
    """FLOPs of a step by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    from softmap.hf import SoftmapConfig, SoftmapForCausalLM
    from softmap.train.activations import checkpoint_activations

    given = dataclasses.asdict(one.config) | {"impl": "reference"}
    model = SoftmapForCausalLM(SoftmapConfig(**given)).to(device)
    checkpoint_activations(model, one.layout.activations)
    ids = torch.zeros(1, one.context, dtype=torch.int64, device=device)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, shift_labels=ids, labels=ids).loss.backward()
    return counter.get_total_flops() * one.batch_size / one.ranks


def worker(ranks: int, variants: list[str], sizes: dict[str, int], device: torch.device) -> None:
    """All cases of so many ranks; rank 0 prints a line of JSON for each."""
    from softmap.train import Layout
    from softmap.train.parallel import Parallel, Processes
    from softmap.train.processes import processes, rank

    with processes(Layout(), device, {}) as group:
        for case in [name for name, given in CASES.items() if given[0] == ranks]:
            for variant in variants:
                one = job(variant, case, sizes)
                of = Parallel if ranks == 1 else Processes
                parallel = of(group.device, one.layout, group.rank, ranks)
                found = measured(one, parallel, device)
                if ranks == 1:
                    found["flops"] = counted(one, parallel, device)
                if not rank():
                    row = {"case": case, "variant": variant, "measured": found}
                    print(json.dumps(row | {"predicted": predicted(one)}), flush=True)


def started(ranks: int, words: list[str]) -> list[dict[str, Any]]:
    """The rows of so many ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    every = os.environ | {name: str(value) for name, value in given.items()}
    command = [sys.executable, __file__, "--worker", str(ranks), *words]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True,
            env=every | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {ranks} failed")
    return [json.loads(line) for line in said[0].splitlines() if line.startswith("{")]


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Predicted over measured."""
    both = row["predicted"], row["measured"]
    return {n: round(both[0][n] / m, 3) for n, m in both[1].items() if m}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: of each row predicted / measured."""
    names = ("parameters", "memory", "flops", "sent")
    lines = [f"| case | variant | {' | '.join(names)} |", "| --- | --- |" + " ---: |" * 4]
    for row in rows:
        cells = [f"{row['ratio'][n]:.3f}" if n in row["ratio"] else "" for n in names]
        lines.append(f"| {row['case']} | {row['variant']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", type=int)
    parser.add_argument("--out", type=Path)
    for name, value in (SHAPE | {"context": CONTEXT, "batch": BATCH}).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in (*SHAPE, "context", "batch")}
    device = torch.device(args.device)
    if args.worker:
        return worker(args.worker, args.variants, sizes, device)

    from softmap.lab.machine import provenance

    words = ["--device", args.device, "--variants", *args.variants]
    words += [w for n, v in sizes.items() for w in ("--" + n.replace("_", "-"), str(v))]
    rows = [row for ranks in args.ranks for row in started(ranks, words)]
    rows = [row | {"ratio": ratios(row)} for row in rows]
    print(table(rows))
    if args.out:
        facts = {
            "what": "softmap plan beside torch's counts of a training step, rank 0: bytes, FLOPs",
            "command": "python " + " ".join(sys.argv),
            **sizes,
            **provenance(device),
        }
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        text = json.dumps(facts, indent=1)[:-2] + f',\n "rows": [\n  {lines}\n ]\n}}\n'
        args.out.write_text(text)


if __name__ == "__main__":
    main()
