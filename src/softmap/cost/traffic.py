"""Bytes that a rank sends in a step, by kind.

They are counted as rings send them: when n ranks gather, or reduce and scatter, each sends n - 1
parts; an all-reduce does both. Sums of scalars (losses, norms) are left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from softmap.cost import pieces
from softmap.cost.job import WIDE, Job


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends in a step.

    Attributes:
        gather: parameters (FSDP2): each block's twice per micro-batch, for the forward and the
            backward pass, the root's once.
        scatter: gradients to the ranks that hold them, once per step.
        copies: gradients between copies of the model, whole ones (DDP) or parts (HSDP).
        context: keys of shared sequences, and their gradients.
    """

    gather: float
    scatter: float
    copies: float
    context: float

    @property
    def by_kind(self) -> dict[str, float]:
        """The bytes by the names above."""
        return asdict(self)


def traffic(job: Job) -> Traffic:
    """Returns the traffic of one step."""
    size, others = job.sizes, job.shard - 1
    copies = job.ranks // job.shard
    wide = WIDE * size.root  # the root is gathered in float32
    return Traffic(
        gather=others * job.pieces * (2 * job.low * size.blocks + wide),
        scatter=others * WIDE * size.held,
        copies=2 * (copies - 1) / copies * WIDE * size.held,
        context=_context(job),
    )


def _context(job: Job) -> float:
    if job.share == 1:
        return 0.0
    sent = pieces.keys(job.config, job.precision)
    times = 1 if job.layout.activations == "none" else 2  # gathered again to compute again
    each = times * sent.forward + sent.backward
    rows = (job.share - 1) * job.rows * job.own
    return float(job.sizes.layers * rows * each)
