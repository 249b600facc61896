"""The dense form through ``torch.compile``: what a user gets with one more line."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem
from softmap.ops.call import Region, band_of, run_band
from softmap.ops.output import apply_output


class DenseCompiled(Candidate):
    """``torch.compile`` of the whole dense map and its edits, one graph."""

    name = "dense compiled"
    dense = True

    def applies(self, problem: Problem) -> str | None:
        """Returns None: it runs every problem."""
        return None

    def prepare(self, problem: Problem) -> Runner:
        """Returns the compiled dense map, edits included."""
        call = problem.call
        span = call.span(0, call.queries)._replace(first=0)
        _ = call.heads.by_key, call.heads.from_key  # dynamo cannot trace the lock of these caches

        def dense(leaves: Leaves) -> Tensor:
            part = call.unflatten(leaves)
            return apply_output(run_band(part, Region(partial(band_of, call, span)), 0), part)

        return Runner(torch.compile(dense, dynamic=False, fullgraph=True))
