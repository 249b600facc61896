"""A model's and an optimiser's tensors, to and from safetensors, compared before they are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softmap.extras import need

__needs__ = need("a checkpoint", "safetensors")

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from softmap.errors import SoftmapError

__all__ = ["SafetensorError", "load_optimizer", "load_weights", "save_optimizer", "save_weights"]


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes parameters and persistent buffers; tied tensors once, with their other names."""
    save_model(model, str(path))


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies the tensors into ``model``; SoftmapError if names, shapes or dtypes differ."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        aliases = file.metadata() or {}
    tensors |= {alias: tensors[name] for alias, name in aliases.items() if name in tensors}
    _compare(path, expected=model.state_dict(), found=tensors)
    model.load_state_dict(tensors)


def save_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Writes each parameter's optimiser state as ``<parameter name>/<state name>``."""
    tensors = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(tensors, str(path))


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Brings the state back; hyperparameters are not in the file, they come from the options."""
    with safe_open(str(path), framework="pt") as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    parameters = dict(model.named_parameters())
    indices = _indices(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        owner, _, key = name.rpartition("/")
        index = indices.get(id(parameters.get(owner)))
        if index is None:
            raise SoftmapError(f"{path}: expected states of trained parameters, found {owner!r}")
        state.setdefault(index, {})[key] = tensor
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _indices(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """From a parameter's ``id`` to its number in the optimiser's state dict."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {id(parameter): index for index, parameter in enumerate(parameters)}


def _compare(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        want, have = _describe(expected.get(name)), _describe(found.get(name))
        if want != have:
            raise SoftmapError(f"{path}: {name}: expected {want}, found {have}")


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "no such tensor"
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
