"""Two tasks that take seconds: a text to overfit, and keys to recall."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from softmap.data.synthetic import Recall, tiny_text
from softmap.nn import Decoder, ModelConfig
from softmap.testing.subject import seeded

Batch = tuple[Tensor, Tensor]


def make(variant: str, vocabulary: int, width: int = 32) -> Decoder:
    with seeded(0):
        return Decoder(
            ModelConfig(
                variant, vocabulary, width, 2, 4, intermediate_size=width,
                max_position_embeddings=128,
            )
        )  # fmt: skip


def loss_and_accuracy(model: Decoder, batch: Batch) -> tuple[Tensor, float]:
    """Over the labels that are not -100, the model's embedding being its head."""
    ids, labels = batch
    logits = (model(ids) @ model.embed_tokens.weight.T)[:, :-1]
    asked = labels[:, 1:] != -100
    logits, targets = logits[asked], labels[:, 1:][asked]
    right = (logits.argmax(-1) == targets).float().mean().item()
    return cross_entropy(logits, targets), right


def train(model: Decoder, batches: Callable[[int], Batch], steps: int, lr: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, steps, pct_start=0.1)
    for step in range(steps):
        loss, _ = loss_and_accuracy(model, batches(step))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


def text_batch() -> Batch:
    """Four pieces of a text, byte by byte; no piece can be told from its first bytes alone."""
    data = torch.frombuffer(bytearray(tiny_text().encode()), dtype=torch.uint8).long()
    ids = data[: 4 * 48].view(4, 48)
    return ids, ids


def recall_batches(task: Recall, size: int = 64) -> Callable[[int], Batch]:
    def batch(step: int) -> Batch:
        ids, labels = task.batch(seed=0, step=step, batch_size=size)
        return torch.from_numpy(ids), torch.from_numpy(labels)

    return batch
