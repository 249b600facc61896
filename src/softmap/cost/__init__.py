"""What a training costs, estimated beforehand: memory, traffic and time of a model on many GPUs.

Parameters and FLOPs are counted (``softmap.nn.accounting``), activations are counted on tensors
without storage (``pieces``), and the rest is the model of docs/scale.md.
"""

from softmap.cost.estimate import Assumptions, Estimate, estimate
from softmap.cost.hardware import GPUS, Gpu, find, of_device, parse
from softmap.cost.job import Job
from softmap.cost.live import LiveBytes
from softmap.cost.memory import Memory, memory
from softmap.cost.traffic import Traffic, traffic

__all__ = [
    "GPUS",
    "Assumptions",
    "Estimate",
    "Gpu",
    "Job",
    "LiveBytes",
    "Memory",
    "Traffic",
    "estimate",
    "find",
    "memory",
    "of_device",
    "parse",
    "traffic",
]
