"""What is trained, and how it is distributed over ranks: everything that its cost depends on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from softmap.nn import ModelConfig
from softmap.nn.decoder import Decoder
from softmap.nn.share import Share
from softmap.train.layout import Layout

WIDE = 4  #: bytes of a parameter, a gradient or a moment, all of which are float32


@dataclass(frozen=True)
class Job:
    """A training, and how it is distributed over ranks: everything that its cost depends on.

    Attributes:
        config: the model's configuration.
        batch_size: sequences per step, of ``context`` tokens.
        micro_batch_size: sequences that a rank processes at once; by default all of its own.
        precision: "bf16" is autocast.
        ranks: one per GPU, laid out by ``layout``.
        steps: those of the whole training, discarded decays included.
    """

    config: ModelConfig
    context: int
    batch_size: int
    precision: str
    layout: Layout
    ranks: int = 1
    micro_batch_size: int | None = None
    steps: int = 1

    @property
    def shard(self) -> int:
        """The number of ranks that hold one copy of the parameters together; 1 for DDP or one
        process.
        """
        return self.layout.copy_size(self.ranks) if self.ranks > 1 else 1

    @property
    def share(self) -> int:
        """The number of ranks that share a sequence."""
        return self.layout.context if self.ranks > 1 else 1

    @property
    def low(self) -> int:
        """The bytes of a number in matrix products."""
        return 2 if self.precision == "bf16" else WIDE

    @property
    def rows(self) -> int:
        """The sequences per step that a rank computes a part of."""
        return self.batch_size // (self.ranks // self.share)

    @property
    def micro(self) -> int:
        """The sequences that a rank processes at once."""
        return min(self.micro_batch_size or self.rows, self.rows)

    @property
    def pieces(self) -> int:
        """The micro-batches per step."""
        return -(-self.rows // self.micro)

    @property
    def own(self) -> int:
        """The tokens of a sequence that belong to a rank."""
        return Share(None, 0, self.share, self.context).length if self.share > 1 else self.context

    @property
    def step_tokens(self) -> int:
        """The tokens that all ranks train on in a step."""
        return self.batch_size * self.context

    @property
    def sizes(self) -> Sizes:
        """The numbers of parameters, by where they are."""
        return _sizes(ConfigKey(self.config), self.shard)


class ConfigKey:
    """A configuration as a key of a cache; the configuration itself is not hashable."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, self._text = config, repr(config)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConfigKey) and self._text == other._text


class Sizes(NamedTuple):
    """Numbers of parameters of a model that is sharded along first axes.

    Attributes:
        total: all of the model.
        blocks: the part of all blocks on the first rank, which has the largest part.
        root: the first rank's part of what is in no block (embeddings, last norm, head).
        block: the largest block, whole.
        outside: all that is in no block, whole.
        head: the matrix that makes the logits.
        layers: the number of blocks.
    """

    total: int
    blocks: int
    root: int
    block: int
    outside: int
    head: int
    layers: int

    @property
    def held(self) -> int:
        """The parameters that a rank holds."""
        return self.blocks + self.root


class _Whole(nn.Module):
    """A decoder and its head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight


class _Shapes(NamedTuple):
    """Shapes of all parameters: by block, outside of blocks, and of the matrix of the logits."""

    blocks: list[list[torch.Size]]
    outside: list[torch.Size]
    head: torch.Size


@cache
def _shapes(key: ConfigKey) -> _Shapes:
    with torch.device("meta"):
        model = _Whole(key.config)
    blocks = [list(block.parameters()) for block in model.model.layers]
    inside = {id(p) for block in blocks for p in block}
    outside = [p.shape for p in model.parameters() if id(p) not in inside]
    return _Shapes([[p.shape for p in b] for b in blocks], outside, model.lm_head.weight.shape)


@cache
def _sizes(key: ConfigKey, shard: int) -> Sizes:
    """Returns the sizes of a model of which ``shard`` ranks hold one copy."""
    blocks, outside, head = _shapes(key)
    whole = [_numbers(block, 1) for block in blocks]
    return Sizes(
        total=sum(whole) + _numbers(outside, 1),
        blocks=sum(_numbers(block, shard) for block in blocks),
        root=_numbers(outside, shard),
        block=max(whole),
        outside=_numbers(outside, 1),
        head=head.numel(),
        layers=len(blocks),
    )


def _numbers(shapes: Iterable[torch.Size], shard: int) -> int:
    """Returns the number of parameters in the first of ``shard`` parts."""
    return sum(-(-shape[0] // shard) * shape[1:].numel() for shape in shapes)
