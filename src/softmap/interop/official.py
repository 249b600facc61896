"""``from_official``: the methods' reference implementations and released checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from softmap.errors import SoftmapError, nearest
from softmap.interop import dape_v2, dcformer, diff_attention, simplified_blocks

KINDS: dict[str, Callable[[Mapping[str, Tensor], Mapping[str, Any]], nn.Module]] = {
    "diff-attention": diff_attention.load,
    "dcformer": dcformer.load,
    "dape-v2": dape_v2.load,
    "simplified-blocks": simplified_blocks.load,
}


def from_official(kind: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> nn.Module:
    """Returns our module of the method ``kind`` with the weights of its authors' module.

    kind, with what the module computes:

    - ``diff-attention``: x (B, T, D) to y (B, T, D), one layer (arXiv 2410.05258);
    - ``dcformer``: input_ids (B, T) to an output with ``.logits`` (B, T, V), a transformers model
      with cache and ``generate`` (arXiv 2405.08553);
    - ``dape-v2``: scores (B, H, T, T) to biased scores, zeros above the diagonal (2410.04798);
    - ``simplified-blocks``: x (B, T, D) to y (B, T, D), a stack of blocks (2311.01906).

    Args:
        state: their parameters under their own names (copied, in their dtype).
        config: their options.

    The module is returned in eval mode, on the CPU. Raises ``ValueError`` in one line for an option
    that softmap cannot represent (it, its value, what can be), for weights that are missing, left
    over or of another shape.
    """
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise SoftmapError(f"unknown kind {kind!r}{nearest(str(kind), KINDS)}; known: {known}")
    return KINDS[kind](state, config)
