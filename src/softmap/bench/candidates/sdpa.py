"""``scaled_dot_product_attention``, each of its backends: plain attention, the baseline."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem

KERNELS = {
    "flash": (SDPBackend.FLASH_ATTENTION, ("cpu", "cuda")),
    "cudnn": (SDPBackend.CUDNN_ATTENTION, ("cuda",)),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, ("cuda",)),
    "math": (SDPBackend.MATH, ("cpu", "cuda")),
}


class Sdpa(Candidate):
    """One kernel behind SDPA. A window needs a mask, which not every kernel takes."""

    plain = True

    def __init__(self, kernel: str) -> None:
        self.name = f"sdpa {kernel}"
        self._kernel, self._devices = KERNELS[kernel]
        self.dense = kernel == "math"

    @classmethod
    def all(cls) -> list[Candidate]:
        """Returns a candidate for each kernel of SDPA."""
        return [cls(kernel) for kernel in KERNELS]

    def applies(self, problem: Problem) -> str | None:
        """Returns why the kernel cannot run the problem, or None."""
        device = problem.call.q.device.type
        if device not in self._devices:
            return f"runs only on {' and '.join(self._devices)}"
        if problem.call.window is not None and self.name == "sdpa flash" and device == "cuda":
            return "takes no mask, and a window needs one"
        return None

    def prepare(self, problem: Problem) -> Runner:
        """Returns SDPA restricted to this kernel."""
        call, mask = problem.call, window_mask(problem)
        grouped = call.q.shape[1] != call.k.shape[1]

        def run(leaves: Leaves) -> Tensor:
            with sdpa_kernel(self._kernel):
                q, k, v = leaves
                return sdpa(
                    q, k, v, attn_mask=mask, is_causal=mask is None, scale=call.scale,
                    enable_gqa=grouped,
                )  # fmt: skip

        return Runner(run)


def window_mask(problem: Problem) -> Tensor | None:
    """Returns the (T, T) additive mask of the case's window, or None."""
    call = problem.call
    if call.window is None:
        return None
    at = torch.arange(call.queries, device=call.q.device)
    gap = at[:, None] - at[None]
    hidden = (gap < 0) | (gap >= call.window)
    zeros = torch.zeros(gap.shape, dtype=call.q.dtype, device=gap.device)
    return zeros.masked_fill(hidden, float("-inf"))
