"""Golden tensors of the methods' reference code, kept beside the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent.parent / "data" / "golden"


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Inputs and outputs, the reference module's state, its configuration."""
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    state = {k[6:]: t for k, t in tensors.items() if k.startswith("state.")}
    return {k: t for k, t in tensors.items() if not k.startswith("state.")}, state, config


def largest(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
