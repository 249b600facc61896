"""What the training loop costs over a bare one, written by hand: same model, batches, optimiser.

    python benchmarks/loop.py --out results/loop-cpu.json

Rounds of both take turns, the order drawn anew in each. A round is timed from the end of its first
step to the end of its last one: of ``softmap.train.train`` with all that it does between (log,
signals, finite losses, a line of ``train.jsonl`` each ``--log-every`` steps), of the bare loop with
forward, backward, clipping, update. The ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

PEAK = 1e-3


def model(args: argparse.Namespace) -> Any:
    from softmap.hf import SoftmapConfig, SoftmapForCausalLM

    torch.manual_seed(0)
    return SoftmapForCausalLM(
        SoftmapConfig(
            vocab_size=args.vocab, hidden_size=args.width, num_hidden_layers=args.layers,
            num_attention_heads=args.heads, max_position_embeddings=args.context,
        )
    ).to(args.device)  # fmt: skip


def batches(args: argparse.Namespace) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, args.context + 1)
    return [torch.randint(args.vocab, shape, generator=generator) for _ in range(args.steps)]


def ours(args: argparse.Namespace, data: list[torch.Tensor]) -> float:
    """Seconds of all steps but the first, by the loop."""
    from softmap.train import TrainingOptions, train

    options = TrainingOptions(
        steps=args.steps, batch_size=args.batch, context=args.context, peak_lr=PEAK,
        schedule="cosine", log_every=args.log_every, warmup=1,
    )  # fmt: skip
    ends: list[float] = []

    def batch(step: int) -> torch.Tensor:
        ends.append(time.perf_counter())  # asked before each step, and once for the warm-up
        return data[min(step, len(data) - 1)]

    def last(metrics: dict[str, float]) -> None:
        if metrics["step"] == args.steps:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        train(model(args), batch, options, folder, on_step=last)
    # Warm-up, step 0, step 1, ..., the end; a fingerprint for the checkpoint asks for no batch.
    return ends[args.steps + 1] - ends[2]


def bare(args: argparse.Namespace, data: list[torch.Tensor]) -> float:
    """The same by hand."""
    from softmap.train.optim import adamw

    mine = model(args)
    optimizer = adamw(mine, lr=PEAK, weight_decay=0.1, betas=(0.9, 0.95))
    began = 0.0
    for step, batch in enumerate(data):
        if step == 1:
            began = time.perf_counter()
        ids = batch.to(args.device)
        optimizer.zero_grad(set_to_none=True)
        targets = ids[:, 1:].contiguous()
        loss = mine(input_ids=ids[:, :-1], labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
        optimizer.step()
        loss.item()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"width": 128, "layers": 4, "heads": 4, "vocab": 1024, "context": 256, "batch": 8}
    for name, value in (sizes | {"steps": 30, "rounds": 15, "log-every": 10}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    from softmap.lab.machine import provenance

    data, rounds = batches(args), []
    ways = {"ours": ours, "bare": bare}
    for way in ways.values():  # libraries load, kernels are built
        way(args, data)
    for number in range(args.rounds):
        order = random.Random(number).sample(sorted(ways), 2)
        rounds.append({name: round(ways[name](args, data), 4) for name in order})
        print(json.dumps(rounds[-1]), flush=True)
    ratios = sorted(one["ours"] / one["bare"] for one in rounds)
    middle = statistics.median(ratios)
    print(f"the loop takes {middle:.3f} of a bare one ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    if args.out:
        facts = {
            "what": "seconds of steps by softmap's loop and by a bare one, interleaved rounds",
            "command": "python " + " ".join(sys.argv),
            **{name.replace("-", "_"): getattr(args, name) for name in (*sizes, "steps")},
            **provenance(torch.device(args.device)),
            "ratio": round(middle, 4),
            "rounds": rounds,
        }
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
