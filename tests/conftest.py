"""For all tests: tiny tensors, so one core an operation; test processes take the others."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
