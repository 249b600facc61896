"""A tiny language model with dropout and tied embeddings, and batches, for the tests."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB, WIDTH, CONTEXT, BATCH = 11, 8, 6, 4


class Stub(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(VOCAB, WIDTH)
            self.mix = nn.Linear(WIDTH, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.per_head = nn.Parameter(torch.ones(2, 3))
            self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        self.per_head.no_weight_decay = True
        self.head.weight = self.embed.weight
        self.dropout = nn.Dropout(0.2)

    def forward(
        self, input_ids: Tensor, labels: Tensor, shift_labels: Tensor | None = None
    ) -> SimpleNamespace:
        hidden = self.dropout(torch.tanh(self.mix(self.embed(input_ids))))
        logits = self.head(self.norm(hidden) * self.per_head.sum())
        if shift_labels is None:
            logits, shift_labels = logits[:, :-1], labels[:, 1:]
        loss = F.cross_entropy(logits.flatten(0, 1), shift_labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


def batches(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, VOCAB, (BATCH, CONTEXT + 1), generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
