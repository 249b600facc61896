"""``graft``: adds edits to a trained model, started so that its function does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging

from softmap.errors import SoftmapError, shown
from softmap.hf.extended import MODELS, extend
from softmap.hf.swap import put
from softmap.hf.swapped.attention import SwappedAttention
from softmap.nn import Attention
from softmap.nn.part import check_backend, graft_part

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class GraftReport:
    """What a graft has done to a model.

    Attributes:
        variant: the variant that was put in, as text.
        added: for each layer, how many weights of which parameters of its attention are new.
        changes: why the model's function has changed; empty where it has not, up to rounding.
    """

    variant: str
    added: dict[int, dict[str, int]]
    changes: list[str]

    @property
    def weights(self) -> int:
        """The number of new weights."""
        return sum(sum(sizes.values()) for sizes in self.added.values())


def graft(model: Any, to: Any, layers: Any = None, *, impl: str = "auto") -> Any:
    """Give a trained model the edits of the variant ``to``, started as the identity; returns the
    model.

    It works as [`softmap.hf.swap`][] does, but sets the edits' own parameters so that they change
    nothing ([`softmap.maps.Edit.start_as_identity`][]) and can still learn. A variant whose
    published form has no such start gets an option that provides one (``diff2`` becomes
    ``diff2(gain=true)``). docs/graft.md lists them.

    Args:
        model: a model of transformers as for [`swap`][]; or one of softmap's own (all layers),
            whose edits stay and are followed by those of ``to``. It is changed in place, and saves,
            loads and trains as before. The weights of queries, keys, values and the output are kept
            exactly.
        to: the variant.
        layers: their indices, negative ones from the end; None for all.
        impl: the backend of ``softmap.attention``.

    A log line says how many weights are new, and why the function has changed where it has: the
    variant cannot start as the identity (``diff``), or has no rotary positions (``alibi``, ``dape``
    with a bias). Raises ``ValueError``, and leaves the model as it was, for a variant or model that
    does not fit.
    """
    done = grafted(model, to, layers, impl=impl)
    logger.warning(
        f"softmap.hf.graft: {done.variant} in {len(done.added)} of "
        f"{len(model.base_model.layers)} layers; {done.weights:,} weights are new; the model's "
        f"function {'has changed: ' + '; '.join(done.changes) if done.changes else 'is the same'}"
    )
    return model


def grafted(model: Any, to: Any, layers: Any = None, *, impl: str = "auto") -> GraftReport:
    """Call [`graft`][], and return what it has done."""
    label = graft_part(to)
    check_backend(impl)
    if type(model) in MODELS:
        if layers is not None:
            raise SoftmapError(
                "a softmap model has one variant for all layers: expected layers=None, found "
                f"{shown(layers)}"
            )
        old = [block.attention for block in model.base_model.layers]
        added = extend(model, label, impl)
    else:
        added, old = put(model, label, layers, impl), None
    changes: dict[str, None] = {}
    for n, sizes in added.items():
        before = _of_family(model, n) if old is None else _Before.of(old[n])
        made = _attention(model.base_model.layers[n])
        changes |= dict.fromkeys([*_started(made, before.edits), *_placed(made, before, sizes)])
    return GraftReport(label, added, list(changes))


@dataclass(frozen=True)
class _Before:
    """A layer's attention before the graft."""

    position: str
    window: int | None
    heads: int
    edits: list[Any]

    @classmethod
    def of(cls, attention: Attention) -> _Before:
        position, heads = attention.backbone.position, attention.heads.outputs
        return cls(position, attention.window, heads, list(attention.edits))


def _of_family(model: Any, layer: int) -> _Before:
    """Returns that of a layer of transformers: rotary, without edits."""
    config = model.config
    return _Before("rope", model.kind.window(config, layer), config.num_attention_heads, [])


def _attention(block: Any) -> Attention:
    """Returns the attention of a block of any of these models."""
    for module in block.children():
        if isinstance(module, SwappedAttention):
            return module.attention
        if isinstance(module, Attention):
            return module
    raise AssertionError("a block without softmap attention")


@torch.no_grad()
def _started(made: Attention, kept: list[Any]) -> list[str]:
    """Start the edits of ``made`` that are not ``kept``; returns those that change the function."""
    fresh = [edit for edit in made._edits if not any(edit is old for old in kept)]
    return [
        f"{type(edit).__name__} has no start that changes nothing"
        for edit in fresh
        if not edit.start_as_identity()
    ]


def _placed(made: Attention, before: _Before, added: dict[str, int]) -> list[str]:
    """Returns what changes the function in the new attention, apart from its edits."""
    found = []
    if before.position == "rope" != made.backbone.position:
        found.append("rotary positions are left out")
    if "q_norm.weight" in added:
        found.append("norms of queries and keys are new")
    if made.heads.outputs != before.heads:
        found.append(f"{made.heads.outputs} output heads stand for {before.heads}")
    if made.window != before.window:
        found.append(f"a row sees {made.window} keys")
    return found
