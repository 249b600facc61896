"""What a block and the head keep and need, counted by running them on tensors without storage.

Nothing has to be declared, so nothing can be forgotten. After each operation the bytes that are
alive are a + b n for n sequences: runs on two and on three of them give a and b, and so the bytes
for any n. The sequences are short: attention by bands keeps no map, and what it allocates for a
band does not grow with the sequence. For attention its inputs are counted, which all our backends
save in any case; two numbers per row, and the outputs of single maps where SDPA subtracts pairs of
them, are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmap.cost.job import ConfigKey
from softmap.cost.live import LiveBytes
from softmap.maps import Edit, Tensors
from softmap.nn import Block, ModelConfig
from softmap.nn.positions import Positions
from softmap.train.activations import checkpoint_activations

TOKENS = 16  #: tokens of the sequences that are run


class Counted(NamedTuple):
    """Bytes of one piece of a model for n sequences of :data:`TOKENS` tokens.

    Attributes:
        kept: (a, b) alive after the forward pass, beside the piece's input.
        curve: (a, b) after each operation of the forward and the backward pass.
    """

    kept: tuple[float, float]
    curve: list[tuple[float, float]]

    def kept_by(self, tokens: int) -> float:
        """Returns the bytes kept for ``tokens`` tokens, without copies of weights."""
        return self.kept[1] * tokens / TOKENS

    @property
    def copies(self) -> float:
        """The bytes kept whatever the number of tokens: weights in another dtype."""
        return max(0.0, self.kept[0])

    def peak(self, tokens: int) -> float:
        """Returns the most bytes at once for ``tokens`` tokens."""
        return max(a + b * tokens / TOKENS for a, b in self.curve)


class Keys(NamedTuple):
    """Bytes per token that ranks exchange where they share a sequence.

    Attributes:
        forward: what is gathered in the forward pass.
        backward: the gradients of that, in the backward pass.
    """

    forward: int
    backward: int


def block(config: ModelConfig, precision: str, activations: str) -> Counted:
    """Returns what the last block keeps and needs; ``activations`` as ``parallel.activations``."""
    return _block(ConfigKey(config), precision, activations)


def head(config: ModelConfig, precision: str) -> Counted:
    """Returns what the head and the loss keep and need, from normed states to the mean loss."""
    return _head(config.hidden_size, config.vocab_size, precision)


def keys(config: ModelConfig, precision: str) -> Keys:
    """Returns the bytes of one token in one layer that ranks sharing a sequence exchange."""
    return _keys(ConfigKey(config), precision)


@cache
def _block(key: ConfigKey, precision: str, activations: str) -> Counted:
    config = key.config

    def run(sequences: int) -> tuple[LiveBytes, int]:
        piece = _made(config)
        x = torch.empty(sequences, TOKENS, config.hidden_size, requires_grad=True)
        checkpoint_activations(nn.ModuleList([piece]), activations)
        positions = Positions.of(TOKENS, None, x.device)
        return _run(piece, [x], precision, lambda: [piece(x, positions, None, None)])

    return _counted(run)


@cache
def _head(width: int, vocabulary: int, precision: str) -> Counted:
    def run(sequences: int) -> tuple[LiveBytes, int]:
        piece = nn.Linear(width, vocabulary, bias=False)
        x = torch.empty(sequences, TOKENS, width, requires_grad=True)
        asked = torch.zeros(sequences * TOKENS, dtype=torch.int64)

        def loss() -> list[Tensor]:
            logits = piece(x)
            return [F.cross_entropy(logits.float().flatten(0, 1), asked), logits]

        return _run(piece, [x, asked], precision, loss)

    return _counted(run)


@cache
def _keys(key: ConfigKey, precision: str) -> Keys:
    from torch._subclasses.fake_tensor import FakeTensorMode

    config = key.config
    with FakeTensorMode(), torch.no_grad():
        layer = _made(config).attention
        x = torch.empty(1, 1, config.hidden_size)
        with _autocast(precision):
            q, k, v = layer.project(x, Positions.of(1, None, x.device))
            edits: list[Edit] = list(layer.edits)  # type: ignore[arg-type]
            made: list[Tensors] = [edit(x, q, k) for edit in edits]
    sent = [k, v, *(t for one in made for t in one.key.values())]
    if any(edit.halo for edit in edits):
        sent += [q, *(t for one in made for t in one.query.values())]
    forward = sum(t.numel() * t.element_size() for t in sent)
    return Keys(forward, sum(t.numel() * max(4, t.element_size()) for t in sent))


def _made(config: ModelConfig) -> Block:
    """Returns the last block, with attention by bands, which runs on any device."""
    return Block(replace(config, impl="chunked"), config.num_hidden_layers - 1)


def _autocast(precision: str) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def _run(
    piece: nn.Module, given: Iterable[Tensor], precision: str, forward: Callable[[], list[Tensor]]
) -> tuple[LiveBytes, int]:
    """Run forward and backward; returns the bytes alive all the time, and those between the
    passes.
    """
    weights = [*piece.parameters(), *piece.buffers()]
    for p in piece.parameters():  # gradients are counted elsewhere: drop each one when complete
        p.register_post_accumulate_grad_hook(_drop)
    with LiveBytes([*weights, *given]) as live:
        with _autocast(precision):
            out = forward()
        kept = live.now
        out[0].sum().backward()
    return live, kept


def _drop(p: Tensor) -> None:
    p.grad = None


def _counted(run: Callable[[int], tuple[LiveBytes, int]]) -> Counted:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        (two, kept_two), (three, kept_three) = run(2), run(3)
        if len(two.curve) != len(three.curve):  # the first call did work that is done once
            two, kept_two = run(2)
    pairs = zip(two.curve, three.curve, strict=True)
    return Counted(_line(kept_two, kept_three), [_line(a, b) for a, b in pairs])


def _line(two: int, three: int) -> tuple[float, float]:
    """Returns (a, b) of a + b n, from its values at 2 and 3."""
    return 3.0 * two - 2.0 * three, float(three - two)
