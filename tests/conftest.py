"""For all tests: tiny tensors, so one core an operation; test processes take the others."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import torch

torch.set_num_threads(1)

# A shell starts what it puts into the background deaf to Ctrl-C, nohup to SIGHUP; so would be the
# processes that tests start to interrupt.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)

# Without a GPU Triton's kernels are tested in its interpreter, which it must know when imported
# (transformers imports it). Afterwards only tests that ask for it see the variable.
if find_spec("triton") is not None and not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language  # noqa: F401

    del os.environ["TRITON_INTERPRET"]
