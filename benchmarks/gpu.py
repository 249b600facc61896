"""All that a GPU can tell of softmap in ten minutes: ``make gpu``.

The doctor, the tests of the Triton kernels, and the bench, each in a process of its own with a
limit of time; results go to results/, named after the GPU.
The exit status is 1 where a step failed, 2 where there is no GPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOFTMAP = (sys.executable, "-m", "softmap")
VARIANTS = ("dcmha", "dape", "diff", "diff2", "sas")
GRACE = 15  # seconds for a step that is told to stop: the bench keeps what it has measured


class Step(NamedTuple):
    name: str
    seconds: int
    command: Sequence[str]


def steps(gpu: str) -> list[Step]:
    """What is run, in order; 10 minutes in all."""
    op = ["--batch", "8", "--heads", "16", "--tokens", "2048", "--head-dim", "64"]
    # the width of a model of 1.4B parameters, four of its layers
    step = ["model.hidden_size=2048", "model.num_hidden_layers=4", "model.num_attention_heads=16"]
    step += ["model.context=2048", "training.batch_size=8", "data.tokenizer=bpe:4096"]
    op += ["--dtype", "bf16", "--impl", "triton", "--peers", "none", "--rounds", "10"]
    tests = (sys.executable, "-m", "pytest", "-n", "8", "-m", "not slow", "tests/ops/triton")

    def out(kind: str) -> Path:
        return ROOT / "results" / f"{kind}-{gpu}.json"

    return [
        Step("doctor", 135, (*SOFTMAP, "doctor", "--device", "cuda", "--json", str(out("doctor")))),
        Step("tests", 140, tests),
        Step("op", 105, (*SOFTMAP, "bench", "op", *VARIANTS, *op, "--seconds", "2",
                         "--device", "cuda", "--out", str(out("op")))),
        Step("step", 90, (*SOFTMAP, "bench", "step", "diff", "diff2", "sas-p", "dcmha",
                          "--set", *step, "--device", "cuda", "--out", str(out("step")))),
        Step("decode", 55, (*SOFTMAP, "bench", "decode", "--rounds", "3", "--device", "cuda",
                            "--out", str(out("decode")))),
    ]  # fmt: skip


def run(step: Step) -> str:
    """``ok``, or what went wrong."""
    process = subprocess.Popen(step.command, cwd=ROOT)
    try:
        status = process.wait(step.seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return f"stopped after {step.seconds} s"
    return "ok" if status == 0 else f"failed with status {status}"


def short(name: str) -> str:
    """``h100`` of ``NVIDIA H100 80GB HBM3``."""
    found = re.search(r"\b[A-Za-z]*\d\w*", name)
    return (found[0] if found else re.sub(r"\W+", "-", name)).lower()


def gpu() -> str | None:
    """The name of the GPU, or None."""
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main() -> int:
    name = gpu()
    if name is None:
        print("make gpu: expected a GPU that PyTorch can use, found none", file=sys.stderr)
        return 2
    results = {}
    for step in steps(short(name)):
        print(f"== {step.name}: at most {step.seconds} s", flush=True)
        begin = time.monotonic()
        results[step.name] = f"{run(step)}, {time.monotonic() - begin:.0f} s"
    print("\n".join(f"{name}: {said}" for name, said in results.items()))
    return int(not all(said.startswith("ok") for said in results.values()))


if __name__ == "__main__":
    sys.exit(main())
