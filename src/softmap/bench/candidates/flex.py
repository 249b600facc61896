"""FlexAttention, for what its ``score_mod`` can express: additive biases, windows, subtracted
pairs.

It cannot mix heads, since a score_mod sees one score. It has no backward pass on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem
from softmap.maps import Edit
from softmap.ops.call import Call, bag
from softmap.ops.output import apply_output
from softmap.variants.biases import Alibi, Kerple
from softmap.variants.diff import Difference
from softmap.variants.diff2 import TokenDifference

Mod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
PAIRS = (Difference, TokenDifference)


class Flex(Candidate):
    """Compiled FlexAttention; pairs of maps are two calls, subtracted."""

    name = "flex"

    def applies(self, problem: Problem) -> str | None:
        """Returns why it cannot run the problem, or None.

        It runs at most one edit, which a score_mod or two calls must express.
        """
        call = problem.call
        if problem.case.gradients and call.q.device.type == "cpu":
            return "has no backward pass on a CPU"
        if call.queries != call.keys:
            return "is set up here for whole sequences only"
        if len(call.edits) > 2 or sum(e.stage != "output" for e in call.edits) > 1:
            return "runs at most one edit"
        for edit in call.edits:
            if edit.stage != "output" and not isinstance(edit, (Alibi, Kerple, *PAIRS)):
                return f"cannot express {type(edit).__name__}"
        return None

    def prepare(self, problem: Problem) -> Runner:
        """Returns FlexAttention, compiled for the problem's sizes."""
        mask = _mask(problem.call)
        attend = torch.compile(flex_attention, dynamic=False)

        def run(leaves: Leaves) -> Tensor:
            call = problem.at(leaves)
            return apply_output(_attend(attend, call, mask), call)

        return Runner(run)


def _attend(attend: Any, call: Call, mask: Any) -> Tensor:
    edit = next((e for e in call.edits if e.stage != "output"), None)
    t = {} if edit is None else bag(call.tensors[list(call.edits).index(edit)])
    given = {"block_mask": mask, "scale": call.scale}
    if isinstance(edit, PAIRS):
        keys = call.heads.key_of_map
        parts = [
            attend(
                call.q[:, s::2], call.k[:, keys[s::2]],
                call.v.repeat_interleave(call.heads.outputs // call.heads.values, 1), **given,
            )
            for s in (0, 1)
        ]  # fmt: skip
        pairs = torch.stack(parts, 2).flatten(1, 2)
        return edit.edit(pairs, None, t).to(call.q.dtype)  # type: ignore[arg-type]
    grouped = call.q.shape[1] != call.k.shape[1]
    mod = _mod(edit, t)
    return attend(call.q, call.k, call.v, score_mod=mod, enable_gqa=grouped, **given)  # type: ignore[no-any-return]


def _mod(edit: Edit | None, t: dict[str, Tensor]) -> Mod | None:
    if isinstance(edit, Alibi):
        slopes = t["slopes"]
        return lambda s, b, h, i, j: s - slopes[h] * (i - j)
    if isinstance(edit, Kerple):
        p, a = t["p"], t["a"]
        # Beyond the diagonal the logarithm would be NaN before the mask hides it.
        return lambda s, b, h, i, j: s - p[h] * torch.log1p(a[h] * (i - j).clamp(min=0))
    return None


def _mask(call: Call) -> Any:
    window = call.keys if call.window is None else call.window
    return create_block_mask(
        lambda b, h, i, j: (i >= j) & (i - j < window), None, None, call.queries, call.keys,
        device=str(call.q.device),
    )  # fmt: skip
