"""Hashes of what a training does next: a resumed run must find exactly what was saved.

Before the first resumed step each rank compares its next batch, learning rate, random states,
weights and optimiser states with those of the save, and adds a line to ``resumes.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from softmap.errors import SoftmapError
from softmap.files import writing
from softmap.train import rng
from softmap.train.parallel import Parallel

Fingerprint = dict[str, Any]
_COMPARED = ("batch", "lr", "random", "model", "optimizer")


def fingerprint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor | tuple[Tensor, Tensor] | None,
    lr: float | None,
    parallel: Parallel,
) -> Fingerprint:
    """Returns the hashes of this rank's part of the training.

    Args:
        batch: the next step's batch; None if there is no next step.
        lr: the next step's learning rate; None likewise.
    """
    given = batch if isinstance(batch, tuple) else (batch,)
    layout = parallel.layout
    found = {
        "layout": [parallel.ranks, layout.copy_size(parallel.ranks), layout.context],
        "batch": _hash(t for t in given if t is not None),
        "lr": lr,
        "random": hashlib.sha256(json.dumps(rng.snapshot()).encode()).hexdigest(),
        "model": _hash(model.state_dict().values()),
    }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = (optimizer.state[p] for p in parameters if p in optimizer.state)
    return {**found, "optimizer": _hash(own[key] for own in states for key in sorted(own))}


def check_resumed(
    found: Fingerprint,
    saved: Fingerprint | None,
    place: dict[str, int],
    parallel: Parallel,
    where: Path,
) -> None:
    """Append a line for each rank to ``where``, and compare each rank's part with what was saved.

    Args:
        saved: None, or a fingerprint of another layout, leaves nothing to compare.

    Raises ``SoftmapError`` where a rank's part is not what was saved.
    """
    same = saved is not None and saved.get("layout") == found["layout"]
    wrong = [name for name in _COMPARED if same and saved and saved[name] != found[name]]
    line = {"rank": parallel.rank, **place, **found, "exact": not wrong if same else None}
    lines = parallel.together(lambda: (line, wrong))

    def write() -> None:
        with writing(where), where.open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one, _ in lines)

    parallel.by_first(write)
    for one, names in lines:
        if names:
            raise SoftmapError(
                f"{where}: rank {one['rank']} at step {place['step']}: expected what was saved, "
                f"found another {', '.join(names)}"
            )


def _hash(tensors: Iterable[Tensor]) -> str:
    found = hashlib.sha256()
    for t in tensors:
        own = t.detach()
        own = own.to_local() if hasattr(own, "to_local") else own
        flat = own.cpu().contiguous().flatten()
        found.update(f"{own.dtype}{tuple(own.shape)}".encode())
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()
