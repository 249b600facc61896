"""DIFF as Hugging Face's DiffLlama computes it: two SDPA calls, one for each half of the values."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from softmap.bench.candidates._base import Candidate, Leaves, Runner
from softmap.bench.case import Problem
from softmap.variants.diff import Difference, HeadNorm


class DiffLlama(Candidate):
    """``DiffLlamaAttention`` with our q, k, v in place of its projections.

    Its rotary step remains (with angle zero): element-wise work on q and k, small beside the maps.
    It pairs head h with h + H/2 where we pair neighbours, so inputs are reordered before.
    """

    name = "hf diffllama"

    def applies(self, problem: Problem) -> str | None:
        """Returns why it cannot run the problem, None for ``diff`` on whole sequences."""
        if importlib.util.find_spec("transformers") is None:
            return "transformers is not installed"
        kinds = [type(e) for e in problem.call.edits]
        if kinds != [Difference, HeadNorm]:
            return "computes only diff with its head norm"
        if problem.call.heads.keys != problem.call.heads.maps:
            return "is set up here for equal numbers of query and key heads only"
        if problem.call.window is not None or problem.call.queries != problem.call.keys:
            return "is set up here for whole sequences without a window only"
        return None

    def prepare(self, problem: Problem) -> Runner:
        """Returns the attention of ``transformers``, fed with the problem's q, k and v."""
        case, layer = problem.case, _layer(problem)
        d, tokens = case.head_dim, case.tokens
        device, dtype = problem.call.q.device, problem.call.q.dtype
        still = [torch.full((1, tokens, d), c, device=device, dtype=dtype) for c in (1.0, 0.0)]
        held = _Held(layer)

        def run(leaves: Leaves) -> Tensor:
            x = held.fill(leaves)
            out, _ = layer(x, tuple(still))
            out = out.unflatten(-1, (-1, 2 * d)).transpose(1, 2)
            return out * leaves[4]

        return Runner(run, lambda leaves: _adapt(leaves, layer.lambda_init))


def _layer(problem: Problem) -> Any:
    from transformers.models.diffllama.configuration_diffllama import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    case = problem.case
    norm: Any = problem.call.edits[1]
    config: Any = DiffLlamaConfig(  # type: ignore[call-arg]
        hidden_size=case.heads * case.head_dim, num_attention_heads=case.heads,
        num_key_value_heads=case.heads, head_dim=case.head_dim, rms_norm_eps=norm.eps,
        attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device("meta"):
        layer: Any = DiffLlamaAttention(config, 0)
    layer.lambda_init = problem.call.edits[0].lambda_init  # type: ignore[assignment]
    layer.groupnorm = nn.RMSNorm(2 * case.head_dim, eps=norm.eps, elementwise_affine=False)
    layer.o_proj = nn.Identity()
    return layer


class _Held:
    """Puts q, k, v and lambda where the layer looks for its projections and parameters."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._now: SimpleNamespace = SimpleNamespace()
        for name in "qkv":
            setattr(layer, f"{name}_proj", _Give(self, name))
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            delattr(layer, name)

    def fill(self, leaves: Leaves) -> Tensor:
        q, k, v, exponent, _ = leaves
        flat = {n: t.transpose(1, 2).flatten(2) for n, t in (("q", q), ("k", k), ("v", v))}
        self._now = SimpleNamespace(**flat)
        layer, one = self._layer, torch.ones(1, device=q.device)
        layer.lambda_q1, layer.lambda_k1 = exponent[None], one
        layer.lambda_q2 = layer.lambda_k2 = torch.zeros(1, device=q.device)
        return flat["q"]

    def get(self, name: str) -> Tensor:
        return getattr(self._now, name)  # type: ignore[no-any-return]


class _Give(nn.Module):
    def __init__(self, held: _Held, name: str) -> None:
        super().__init__()
        self._held, self._name = held, name

    def forward(self, x: Tensor) -> Tensor:
        return self._held.get(self._name)


def _adapt(leaves: Leaves, start: float) -> Leaves:
    """Returns the inputs in DiffLlama's form: maps in two halves instead of pairs, value halves one
    after the other, lambda as its logarithm.

    Its lambda is exp(e) - exp(0) + lambda_init, so e = log(lambda - lambda_init + 1).
    """
    q, k, v, lam, weight = leaves
    q, k = (torch.cat([t[:, 0::2], t[:, 1::2]], 1) for t in (q, k))
    v = torch.cat(v.chunk(2, -1), 1)
    return [q, k, v, torch.log(lam - start + 1), weight]
