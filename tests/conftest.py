"""For all tests: tiny tensors, so one core an operation; test processes take the others."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

torch.set_num_threads(1)

# Without a GPU Triton's kernels are tested in its interpreter, which it must know when imported
# (transformers imports it). Afterwards only tests that ask for it see the variable.
if find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language  # noqa: F401

    del os.environ["TRITON_INTERPRET"]
