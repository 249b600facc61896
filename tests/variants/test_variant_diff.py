"""Differential attention against its formula, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmap.errors import SoftmapError
from softmap.nn import Attention, ModelConfig, accounting
from softmap.testing.subject import perturb, seeded
from softmap.variants.diff import lambda_init_of


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def made(variant: str, **options: object) -> tuple[Attention, Tensor]:
    with seeded(0):
        layer = perturb(Attention(16, 4, variant, position="none", **options)).double()
        return layer, torch.randn(2, 6, 16, dtype=torch.float64)


def test_lambda_init_by_layer() -> None:
    assert lambda_init_of(0) == pytest.approx(0.2)
    assert lambda_init_of(1) == pytest.approx(0.355509, abs=1e-6)
    assert lambda_init_of(11) == pytest.approx(0.8 - 0.6 * math.exp(-3.3))
    layer = Attention(16, 4, "diff", layer=1, depth=2)
    assert layer.edits[0].lambda_init == pytest.approx(0.355509, abs=1e-6)
    assert layer.edits[1].scale == pytest.approx(1 - 0.355509, abs=1e-6)
    assert Attention(16, 4, "diff(lambda_init=0.5)", layer=7).edits[0].lambda_init == 0.5


def lambda_of(layer: Attention) -> Tensor:
    e = layer.edits[0]
    one, two = (e.lambda_q1 * e.lambda_k1).sum(), (e.lambda_q2 * e.lambda_k2).sum()
    return one.exp() - two.exp() + 0.2


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_diff_is_two_softmaxes_subtracted(kv_heads: int) -> None:
    """With kv_heads 2 there is one group: both output heads use key halves 0 and 1, one value."""
    layer, x = made("diff", kv_heads=kv_heads)
    q = layer.q_proj(x).view(2, 6, 4, 4).transpose(1, 2)
    k = layer.k_proj(x).view(2, 6, kv_heads, 4).transpose(1, 2)
    v = layer.v_proj(x).view(2, 6, kv_heads // 2, 8).transpose(1, 2)
    heads = []
    for h in range(2):
        group = h if kv_heads == 4 else 0
        one = plain(q[:, 2 * h], k[:, 2 * group], v[:, group])
        two = plain(q[:, 2 * h + 1], k[:, 2 * group + 1], v[:, group])
        o = one - lambda_of(layer) * two
        normed = o / (o.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        heads.append(normed * layer.edits[1].weight * (1 - 0.2))
    torch.testing.assert_close(layer(x), layer.o_proj(torch.cat(heads, -1)))


def test_diff_without_head_norm() -> None:
    layer, x = made("diff(head_norm=false)")
    assert len(layer.edits) == 1
    q, k = (p(x).view(2, 6, 4, 4).transpose(1, 2) for p in (layer.q_proj, layer.k_proj))
    v = layer.v_proj(x).view(2, 6, 2, 8).transpose(1, 2)
    o = plain(q[:, 0::2], k[:, 0::2], v) - lambda_of(layer) * plain(q[:, 1::2], k[:, 1::2], v)
    torch.testing.assert_close(layer(x), layer.o_proj(o.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_diff2_is_neighbours_subtracted(kv_heads: int) -> None:
    """Twice the query heads; standard grouping gives both of a pair one key and value head."""
    layer, x = made("diff2", kv_heads=kv_heads)
    q = layer.q_proj(x).view(2, 6, 8, 4).transpose(1, 2)
    k, v = (
        p(x).view(2, 6, kv_heads, 4).transpose(1, 2).repeat_interleave(8 // kv_heads, 1)
        for p in (layer.k_proj, layer.v_proj)
    )
    o = plain(q, k, v)
    gate = torch.sigmoid(x @ layer.edits[0].to_lambda.weight.T).transpose(1, 2)[..., None]
    o = o[:, 0::2] - gate * o[:, 1::2]
    torch.testing.assert_close(layer(x), layer.o_proj(o.transpose(1, 2).flatten(2)))


def config(variant: str) -> ModelConfig:
    return ModelConfig(variant, 100, 32, 3, 4)


def test_diff_costs_what_a_transformer_costs() -> None:
    """Four vectors of d and one norm of 2d a layer are all that is added; FLOPs are equal but for
    the head norm and the subtraction of two outputs."""
    more = accounting.parameters(config("diff"))["total"]
    assert more - accounting.parameters(config("transformer++"))["total"] == 3 * (4 * 8 + 2 * 8)
    flops = [accounting.flops_per_token(config(v), 64) for v in ("diff", "transformer++")]
    assert flops[1] < flops[0] < 1.01 * flops[1]


def test_diff2_keeps_the_cache_of_a_transformer() -> None:
    sizes = {accounting.cache_bytes_per_token(config(v)) for v in ("diff2", "transformer++")}
    assert sizes == {3 * 2 * 32 * 2}
    more = accounting.parameters(config("diff2"))["total"]
    more -= accounting.parameters(config("transformer++"))["total"]
    assert more == 3 * (32 * 32 + 32 * 4)  # one more query projection, w_h


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("diff", {"heads": 5, "dim": 20}, "diff subtracts pairs of maps.*found 5"),
        ("diff+diff2", {"heads": 1, "dim": 4}, "diff2 subtracts pairs of maps.*found 1"),
        ("diff+diff2", {"heads": 3, "dim": 12}, "diff2 subtracts pairs of maps.*found 3"),
        ("diff+diff", {"heads": 2, "dim": 8}, "diff subtracts pairs of maps.*found 1"),
        ("diff", {"heads": 4, "dim": 16, "kv_heads": 1}, "2/4 as many value heads.*found 1"),
        ("diff", {"heads": 4, "dim": 16, "kv_heads": 3}, "found 4 and 3"),
    ],
)
def test_impossible_heads_say_why(variant: str, options: dict, message: str) -> None:
    sizes = dict(options)
    with pytest.raises(SoftmapError, match=message) as error:
        Attention(sizes.pop("dim"), sizes.pop("heads"), variant, **sizes)
    assert "\n" not in str(error.value)
