"""Bytes on the rank that needs most, by kind, at the worst moment of a step.

Kinds do not peak together: activations are freed while gradients are allocated. So memory is
evaluated where it can be largest: in the backward pass of the loss, of the last block (all
activations), of the first block (all gradients), and of tied embeddings, which briefly have a
second gradient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from softmap.cost import pieces
from softmap.cost.job import WIDE, Job


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank.

    Attributes:
        parameters, gradients, optimiser: in float32 (AdamW has two moments); gradients are whole
            where sharded ranks accumulate them over micro-batches.
        activations: what blocks keep, and the block that is computed.
        logits: with their loss.
        temporary: gathered parameters, gradients that are sent, copies of weights in bfloat16.
        moment: the moment of the step.
    """

    parameters: float
    gradients: float
    optimiser: float
    activations: float = 0.0
    logits: float = 0.0
    temporary: float = 0.0
    moment: str = ""

    @property
    def total(self) -> float:
        """The bytes of all kinds together."""
        return sum(self.by_kind.values())

    @property
    def by_kind(self) -> dict[str, float]:
        """The bytes by the names above."""
        return {name: value for name, value in asdict(self).items() if name != "moment"}


def memory(job: Job) -> Memory:
    """Returns the memory of a rank at the worst moment of a step."""
    return max(moments(job), key=lambda one: one.total)


def moments(job: Job) -> list[Memory]:
    """Returns the memory at each moment that may be the worst."""
    size, tokens = job.sizes, job.micro * job.own
    block = pieces.block(job.config, job.precision, job.layout.activations)
    head = pieces.head(job.config, job.precision)
    held, working, always = WIDE * size.held, _peak(job, block), _always(job, block)
    stream = 2 * WIDE * tokens * job.config.hidden_size  # before the first block, after the norm
    kept = block.kept_by(tokens) + _gathered_keys(job)
    logits = job.low * tokens * job.config.vocab_size  # of the output, which is there till the end
    before = WIDE * size.total if job.pieces > 1 else 0  # of earlier micro-batches
    after = WIDE * (size.total if job.pieces > 1 and job.shard == 1 else size.held)
    of_head = WIDE * size.head
    root = WIDE * size.outside if job.shard > 1 else 0
    tied = of_head if job.config.tie_word_embeddings else 0

    def at(
        moment: str, gradients: float, activations: float, logits: float, temporary: float
    ) -> Memory:
        return Memory(held, gradients, 2 * held, activations, logits, temporary, moment)

    return [
        at("loss", before, stream + size.layers * kept, head.peak(tokens), always),
        at(
            "last block", before + of_head, stream + (size.layers - 1) * kept + working, logits,
            always + _moving(job),
        ),
        at("first block", after + root, stream + working, logits, always + _moving(job)),
        at("embeddings", after + root + tied, 0.0, logits, always),
    ]  # fmt: skip


def _peak(job: Job, block: pieces.Counted) -> float:
    """Returns the bytes of the block that is computed, forward and backward."""
    found = block.peak(job.micro * job.own) + _gathered_keys(job)
    return found - block.copies if job.shard > 1 else found


def _always(job: Job, block: pieces.Counted) -> float:
    """Returns the bytes that are there all through the step, beside model and optimiser."""
    size = job.sizes
    if job.shard > 1:  # the root's parameters stay gathered; blocks' come in low precision
        return float(WIDE * size.outside)
    copies = 0.0 if job.layout.activations != "none" else (size.layers - 1) * block.copies
    return copies + (WIDE * size.total if job.ranks > 1 else 0)  # DDP's buckets


def _moving(job: Job) -> float:
    """Returns the bytes that ranks exchange while a block runs backward.

    With FSDP2 these are two blocks' parameters (one is gathered ahead), a block's gradients, and
    these in float32 as they are sent; with shared sequences the gradients of all keys, summed and
    as they are sent.
    """
    found = 0.0
    if job.shard > 1:
        found += job.sizes.block * (3 * job.low + WIDE)
    if job.share > 1:
        found += 2.0 * job.micro * job.context * pieces.keys(job.config, job.precision).backward
    return found


def _gathered_keys(job: Job) -> float:
    """Returns the bytes of other ranks' keys of a block, which stay until its backward pass is
    done.
    """
    if job.share == 1:
        return 0.0
    others = job.micro * (job.context - job.own)
    return float(others * pieces.keys(job.config, job.precision).forward)
