"""Training: schedules as pure functions, one visible loop, checkpoints that resume bit for bit.

Schedules, plans and options need no other package. The rest is imported on first use: it needs
torch, and checkpoints need safetensors (``pip install 'softmap[hf]'``).
"""

from typing import TYPE_CHECKING

from softmap.lazy import lazily
from softmap.train.layout import Layout
from softmap.train.options import TrainingOptions
from softmap.train.plan import Segment, mean_rate, plan, spent
from softmap.train.schedules import Terms

if TYPE_CHECKING:
    from softmap.train.checkpoint import BrokenCheckpoint, Checkpoints
    from softmap.train.loop import NonFiniteLoss, train
    from softmap.train.parallel import Parallel
    from softmap.train.state import State
    from softmap.train.trackers import Tracker, open_tracker

__all__ = [
    "BrokenCheckpoint",
    "Checkpoints",
    "Layout",
    "NonFiniteLoss",
    "Parallel",
    "Segment",
    "State",
    "Terms",
    "Tracker",
    "TrainingOptions",
    "mean_rate",
    "open_tracker",
    "plan",
    "spent",
    "train",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "BrokenCheckpoint": "softmap.train.checkpoint",
        "Checkpoints": "softmap.train.checkpoint",
        "NonFiniteLoss": "softmap.train.loop",
        "Parallel": "softmap.train.parallel",
        "State": "softmap.train.state",
        "Tracker": "softmap.train.trackers",
        "open_tracker": "softmap.train.trackers",
        "train": "softmap.train.loop",
    },
    optional=dict.fromkeys(
        ("BrokenCheckpoint", "Checkpoints", "NonFiniteLoss", "train"), "safetensors"
    ),
)
