"""The time of a training: what is computed and sent, over the share of the hardware's peaks
reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from softmap.cost.hardware import Gpu
from softmap.cost.job import Job
from softmap.cost.memory import Memory, memory
from softmap.cost.traffic import Traffic, traffic
from softmap.fields import Checked, Range
from softmap.nn import accounting

Share = Annotated[float, Range(above=0, high=1)]
#: Bytes of memory that AdamW reads and writes for a parameter: weight and two moments both ways,
#: the gradient once.
UPDATE = 28


@dataclass(frozen=True)
class Assumptions(Checked):
    """The assumptions that cannot be looked up.

    Attributes:
        efficiency: the share of a GPU's peak that computation reaches. 0.4 is what was published of
            trainings on thousands of H100s (Llama 3, arXiv 2407.21783: 0.38 to 0.43).
        edits: the share of its float32 peak that edits of the map reach: 0.04 to 0.14 with our
            kernels on an H200 (docs/scale.md).
        link: the share of its links' peak that communication reaches.
        reserve: the share of its memory that a training cannot have: CUDA's own, libraries'
            buffers, gaps between tensors.
    """

    efficiency: Share = 0.4
    edits: Share = 0.1
    link: Share = 0.8
    reserve: Annotated[float, Range(0, below=1)] = 0.1


@dataclass(frozen=True)
class Estimate:
    """The estimate of one training. Seconds are per step: ``compute`` overlaps with ``send``
    (parameters and gradients); ``wait`` (keys of shared sequences) and ``update`` are added.
    """

    parameters: int
    flops_per_token: int
    flops_per_step: float
    flops: float
    tokens: int
    cache_bytes_per_token: int
    memory: Memory
    traffic: Traffic
    compute: float
    send: float
    wait: float
    update: float
    step_tokens: int
    peak: float  #: operations a second of all ranks

    @property
    def seconds(self) -> float:
        """The seconds of a step."""
        return max(self.compute, self.send) + self.wait + self.update

    @property
    def tokens_per_second(self) -> float:
        """The tokens per second of all ranks together."""
        return self.step_tokens / self.seconds

    @property
    def days(self) -> float:
        """The days of the whole training."""
        return self.tokens / self.tokens_per_second / 86400

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: what the maths costs over what the GPUs could do."""
        return self.flops_per_token * self.tokens_per_second / self.peak


def estimate(job: Job, gpu: Gpu, given: Assumptions) -> Estimate:
    """Returns the cost of the job on such GPUs, one per rank."""
    per_token = accounting.flops_per_token(job.config, job.context)
    sent = traffic(job)
    send, wait = _sending(job, gpu, given, sent)
    tokens = job.step_tokens * job.steps
    return Estimate(
        parameters=job.sizes.total,
        flops_per_token=per_token,
        flops_per_step=float(per_token) * job.step_tokens,
        flops=float(per_token) * tokens,
        tokens=tokens,
        cache_bytes_per_token=accounting.cache_bytes_per_token(job.config),
        memory=memory(job),
        traffic=sent,
        compute=_computing(job, gpu, given),
        send=send,
        wait=wait,
        update=UPDATE * job.sizes.held / gpu.bandwidth,
        step_tokens=job.step_tokens,
        peak=gpu.flops[job.precision] * job.ranks,
    )


def _computing(job: Job, gpu: Gpu, given: Assumptions) -> float:
    """Returns the seconds of a step: products in the training's precision, and edits of the
    map, element by element in float32.
    """
    forward = accounting.forward_flops(job.config, job.context)
    times = 4 if job.layout.activations == "block" else 3  # backward costs two forward passes
    products = (3 * forward.head + times * forward.products) / gpu.flops[job.precision]
    edits = times * forward.edits / gpu.flops["fp32"]
    a_token = products / given.efficiency + edits / given.edits
    return a_token * job.step_tokens / job.ranks


def _sending(job: Job, gpu: Gpu, given: Assumptions, sent: Traffic) -> tuple[float, float]:
    """Returns the seconds that a rank communicates while it computes, and those that it waits."""
    inside, across = gpu.link * given.link, gpu.network * given.link

    def of(ranks: int) -> float:
        """Returns the bytes per second between this number of neighbours."""
        return inside if gpu.machine % ranks == 0 else across

    between = inside if job.ranks <= gpu.machine else across
    beside = (sent.gather + sent.scatter) / of(job.shard) + sent.copies / between
    return beside, sent.context / of(job.share)
