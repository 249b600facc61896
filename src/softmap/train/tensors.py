"""A model's and an optimiser's tensors, to and from safetensors, compared before loading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softmap.extras import need

__needs__ = need("a checkpoint", "safetensors")

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from softmap.errors import SoftmapError, reason

__all__ = [
    "SafetensorError",
    "load_optimizer",
    "load_shards",
    "load_weights",
    "save_optimizer",
    "save_shards",
    "save_weights",
]


def save_weights(model: nn.Module, path: Path) -> None:
    """Write parameters and persistent buffers; tied tensors are written once, with their other
    names.
    """
    save_model(model, str(path))


def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the tensors into ``model``; raises SoftmapError if names, shapes or dtypes differ."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        aliases = file.metadata() or {}
    tensors |= {alias: tensors[name] for alias, name in aliases.items() if name in tensors}
    _compare(path, expected=model.state_dict(), found=tensors)
    model.load_state_dict(tensors)


def save_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Write each parameter's optimiser state as ``<parameter name>/<state name>``."""
    tensors = {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    save_file(tensors, str(path))


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Load the optimiser's state; hyperparameters are not in the file but come from the options."""
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


def save_shards(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write this rank's part of model and optimiser into ``folder``, one safetensors file per rank.

    A rank writes what it alone holds and its part of what all hold, under the names of
    [`save_weights`][] and [`save_optimizer`][].
    """
    from torch.distributed import checkpoint as dcp

    tensors = {names[0]: t.detach() for names, t in _named(model)}
    tensors |= {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _one_line(folder):
        dcp.save(tensors, storage_writer=writer)


def load_shards(
    model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, *, alone: bool
) -> None:
    """Load model and optimiser from safetensors of any number of ranks, sharded as they are now.

    Args:
        alone: whether there is no other process.

    Raises SoftmapError if names, shapes or dtypes differ.
    """
    from torch.distributed import checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    known = reader.read_metadata().state_dict_metadata
    wanted = _present(model, known, folder)
    states = _states(model, optimizer, known, folder)
    flat = {f"{name}/{key}": t for name, own in states.items() for key, t in own.items()}
    with _one_line(folder):
        dcp.load({**wanted, **flat}, storage_reader=reader, no_dist=alone)
    parameters, indices = dict(model.named_parameters()), _indices(optimizer)
    state = {indices[id(parameters[name])]: own for name, own in states.items()}
    groups: list[dict[str, Any]] = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _named(model: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Returns parameters and persistent buffers, each once with all its names."""
    found: dict[int, tuple[list[str], Tensor]] = {}
    for name, t in model.state_dict(keep_vars=True).items():
        found.setdefault(id(t), ([], t))[0].append(name)
    return list(found.values())


def _present(model: nn.Module, known: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """Returns the model's tensors by their names in the files, to be filled in place."""
    own = {next((n for n in names if n in known), names[0]): t for names, t in _named(model)}
    found = {name: _described(known[name]) for name in known if "/" not in name}
    for name in sorted(own.keys() | found.keys()):
        want, have = _describe(own.get(name)), found.get(name, _describe(None))
        if want != have:
            raise SoftmapError(f"{folder}: {name}: expected {want}, found {have}")
    return {name: t.detach() for name, t in own.items()}


def _states(
    model: nn.Module, optimizer: torch.optim.Optimizer, known: dict[str, Any], folder: Path
) -> dict[str, dict[str, Tensor]]:
    """Returns an empty tensor for each optimiser state in the files, by parameter."""
    parameters, indices = dict(model.named_parameters()), _indices(optimizer)
    states: dict[str, dict[str, Tensor]] = {}
    for name in sorted(name for name in known if "/" in name):
        owner, _, key = name.rpartition("/")
        if id(parameters.get(owner)) not in indices:
            raise SoftmapError(f"{folder}: expected states of trained parameters, found {owner!r}")
        alike = tuple(known[name].size) == tuple(parameters[owner].shape) and key != "step"
        made = torch.zeros_like(parameters[owner]) if alike else torch.zeros(known[name].size)
        states.setdefault(owner, {})[key] = made.detach()
    return states


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Raise the first of the errors that torch gathers from all ranks, as one line."""
    from torch.distributed.checkpoint import CheckpointException

    try:
        yield
    except CheckpointException as error:
        failures = [failure[0] for failure in error.failures.values()]
        raise SoftmapError(f"{folder}: {reason(failures[0])}") from error


def _described(metadata: Any) -> str:
    return f"{str(metadata.properties.dtype).removeprefix('torch.')} {tuple(metadata.size)}"


def _indices(optimizer: torch.optim.Optimizer) -> dict[int, int]:
    """Returns each parameter's index in the optimiser's state dict, by the parameter's ``id``."""
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
