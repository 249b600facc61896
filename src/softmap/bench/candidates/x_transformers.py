"""Talking heads as x-transformers computes them: dense maps, 1 x 1 convolutions over the heads."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem
from softmap.variants.talking_heads import HeadMix


class XTransformers(Candidate):
    """``x_transformers.attend.Attend`` with talking heads before and after the softmax.

    Its mix before the softmax is added to the scores (as of 2.31), so it gets ours minus the
    identity. Earlier versions replace the scores and would fail the parity check.
    """

    name = "x-transformers"
    dense = True

    def applies(self, problem: Problem) -> str | None:
        """Returns why it cannot run the problem, None for talking heads on whole sequences."""
        if importlib.util.find_spec("x_transformers") is None:
            return "x-transformers is not installed"
        edits = problem.call.edits
        if [type(e) for e in edits] != [HeadMix, HeadMix]:
            return "computes only talking heads before and after the softmax"
        if problem.call.heads.keys != problem.call.heads.maps:
            return "is set up here for equal numbers of query and key heads only"
        if problem.call.window is not None or problem.call.queries != problem.call.keys:
            return "is set up here for whole sequences without a window only"
        return None

    def prepare(self, problem: Problem) -> Runner:
        """Returns the attention of x-transformers with the problem's mixes."""
        from torch import nn
        from x_transformers.attend import Attend

        case = problem.case
        attend: Any = Attend(
            causal=True, heads=case.heads, scale=problem.call.scale, pre_talking_heads=True,
            post_talking_heads=True,
        )  # fmt: skip
        mixes = (attend.pre_softmax_talking_heads, attend.post_softmax_talking_heads)
        for mix in mixes:
            assert isinstance(mix, nn.Conv2d)
            del mix.weight

        def run(leaves: Leaves) -> Tensor:
            q, k, v, pre, post = leaves
            added = pre - torch.eye(len(pre), dtype=pre.dtype, device=pre.device)
            for mix, weight in zip(mixes, (added, post), strict=True):
                mix.weight = weight.T[:, :, None, None]
            return attend(q, k, v)[0]  # type: ignore[no-any-return]

        return Runner(run)
