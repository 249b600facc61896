"""A training whose process is killed again and again: python killed.py FOLDER.

Prints how often at a random moment, and how often in the middle of a save. Each life is a process
of its own, forked from this one.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from train_stub import BATCH, CONTEXT, Stub, batches

from softmap.train import TrainingOptions, checkpoint, train

MOMENTS, SAVES = 20, 4
OPTIONS = TrainingOptions(
    steps=200, budgets=(50, 200), batch_size=BATCH, context=CONTEXT, peak_lr=0.05, log_every=1,
    schedule="wsd", optimizer="muon",
)  # fmt: skip


def live(folder: Path, pause: float = 0.0, every: int = 3) -> None:
    """Train until the end."""

    def slowly(step: int) -> torch.Tensor:
        time.sleep(pause)
        return batches(step)

    model = Stub()
    train(model, slowly, replace(OPTIONS, checkpoint_every=every), folder)
    torch.save(model.state_dict(), folder / "final.pt")


def die_in_save(folder: Path, life: int) -> None:
    """The second save is not survived: by its first file, its last one, or its new name."""
    names = ("save_weights", "save_optimizer", "share", "fsync")
    module, name, calls = checkpoint, names[life % len(names)], [0]
    real = getattr(module, name)

    def last(*given: object) -> object:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given)

    setattr(module, name, last)
    live(folder)


def forked(work: object, *given: object) -> int:
    child = os.fork()
    if child == 0:
        work(*given)  # type: ignore[operator]
        os._exit(0)
    return child


def lines(folder: Path) -> int:
    path = folder / "train.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(folder: Path, draw: random.Random) -> bool:
    """One life, ended some steps later than the last; whether it had not ended by itself."""
    child, until = forked(live, folder, 0.003), lines(folder) + draw.randint(1, 8)
    while lines(folder) < until:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.01))
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    live(folder.parent / "imports")  # what a first training imports takes seconds
    draw = random.Random(5)
    deaths = [killed(folder, draw) for _ in range(MOMENTS // 2)]
    saves = [os.waitpid(forked(die_in_save, folder, n), 0)[1] for n in range(SAVES)]
    deaths += [killed(folder, draw) for _ in range(MOMENTS // 2)]
    print(sum(deaths), sum(status == signal.SIGKILL for status in saves))
    assert os.waitpid(forked(live, folder), 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
