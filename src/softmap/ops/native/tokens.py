"""The tensors of the few tokens of a decoding step, by one operator instead of a dozen.

On a CPU, a step of one token takes longer to call operators than they take to compute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softmap.maps import Edit
from softmap.ops.documents import can_look
from softmap.ops.native import build

MOST = 16  # tokens; more of them are faster by matrix products
_WEIGHTS = ("w1", "w2", "wg")


def tensors(edit: Edit, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Returns the query and the key tensors that ``edit(x)`` makes of x (B, T, D).

    None where no operator computes them: for other edits than ``compose`` with all of its branches,
    for more tokens, and where gradients, autocast, a compiler, a transform or a hook of a module
    needs torch's own operations.
    """
    if edit.kernel != "compose" or x.shape[0] * x.shape[1] > MOST:
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not can_look(x):
        return None
    compose: Any = edit
    branches = {"q": compose.query, "k": compose.key}
    if _hooked(edit) or not all(_fits(b, x) for b in branches.values()) or build.missing():
        return None
    query, key = (_factors(side, branch, x) for side, branch in branches.items())
    return query, key


def _fits(branch: nn.Module | None, x: Tensor) -> bool:
    """Whether there is such a branch, with weights as the operator takes them."""
    weights = [getattr(branch, name, None) for name in _WEIGHTS]
    return not _hooked(branch) and all(
        w is not None and w.dtype == x.dtype and w.device == x.device for w in weights
    )


def _hooked(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _factors(side: str, branch: Any, x: Tensor) -> dict[str, Tensor]:
    weights = (getattr(branch, name) for name in _WEIGHTS)
    made = torch.ops.softmap_native.token_factors(x, *weights, branch.eps)
    return dict(zip((f"{side}1", f"{side}2", f"{side}g"), made, strict=True))
