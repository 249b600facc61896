"""Points of a training: the weights before and after each decay, kept beside a trial's model.

They are ``points/<budget>-<phase>.safetensors``, with the phase ``before`` (the last weights of the
stable phase) or ``after`` (the decayed ones): vectors for [`softmap.evals.surface`][], parameters
in the model's own order, tied ones once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from softmap.errors import SoftmapError, reason
from softmap.evals.subject import Subject
from softmap.files import write

BEFORE, AFTER = "before", "after"
FOLDER = "points"


def keep(model: Any, folder: Path, budget: int, phase: str) -> None:
    """Write the model's parameters as the point of a budget (an index), atomically."""
    found = {name: p.detach().cpu().contiguous().clone() for name, p in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / f"{budget}-{phase}.safetensors", save(found))


Kept = dict[tuple[int, str], Path]


def beside(subject: Subject) -> Kept:
    """Returns the points beside the folder of a subject's model."""
    return {} if subject.folder is None else kept(subject.folder.parent / FOLDER)


def kept(folder: Path) -> Kept:
    """Returns the files by (budget, phase), in the order of training; empty where none were
    kept.
    """
    found = {}
    for path in folder.glob("*.safetensors"):
        named = re.fullmatch(rf"(\d+)-({BEFORE}|{AFTER})", path.stem)
        if named:
            found[int(named[1]), named[2]] = path
    return {key: found[key] for key in sorted(found, key=lambda key: (key[0], key[1] == AFTER))}


def vector(path: Path, model: Any) -> Tensor:
    """Returns a point as one float32 vector, in the order of the model's parameters.

    Raises ``SoftmapError`` for a damaged file, and for a point of another model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SoftmapError(f"{path}: expected kept weights: {reason(error)}") from None
    parts = []
    for name, parameter in model.named_parameters():
        if name not in found or found[name].shape != parameter.shape:
            what = tuple(found[name].shape) if name in found else "none"
            raise SoftmapError(f"{path}: expected {name} of {tuple(parameter.shape)}, found {what}")
        parts.append(found[name].float().flatten())
    return torch.cat(parts).to(next(model.parameters()).device)
