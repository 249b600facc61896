"""Training: schedules as pure functions, one visible loop, checkpoints that resume bit for bit."""

from softmap.train.checkpoint import BrokenCheckpoint, Checkpoints
from softmap.train.loop import NonFiniteLoss, train
from softmap.train.options import Options
from softmap.train.parallel import Parallel, SingleProcess
from softmap.train.plan import Segment, plan
from softmap.train.schedules import Terms
from softmap.train.state import State
from softmap.train.trackers import Tracker, open_tracker

__all__ = [
    "BrokenCheckpoint",
    "Checkpoints",
    "NonFiniteLoss",
    "Options",
    "Parallel",
    "Segment",
    "SingleProcess",
    "State",
    "Terms",
    "Tracker",
    "open_tracker",
    "plan",
    "train",
]
