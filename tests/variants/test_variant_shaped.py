"""Shaped attention and the simplified blocks: identity at the start, then their formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from softmap.errors import SoftmapError
from softmap.nn import Attention, Block, Decoder, ModelConfig
from softmap.nn.layers import ReparameterisedLinear
from softmap.testing.subject import perturb, seeded
from softmap.variants import load


def config(variant: str, **options: object) -> ModelConfig:
    return ModelConfig(variant, 50, 16, 2, 4, intermediate_size=24, **options)


def block(variant: str, layer: int = 1) -> tuple[Block, Tensor]:
    with seeded(0):
        return Block(config(variant), layer).double(), torch.randn(2, 7, 16, dtype=torch.float64)


@pytest.mark.parametrize("variant", ["sas", "sas-p"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("impl", ["reference", "folded"])
def test_sub_block_starts_as_the_identity(variant: str, layer: int, impl: str) -> None:
    """W_Q = 0 makes A = C, so A' = I; V and P are the identity (V of the first layer too)."""
    made, x = block(variant, layer)
    made.attention.impl = impl
    assert not made.attention.q_proj.weight.any()
    torch.testing.assert_close(made.attention(x), x)
    kind = ReparameterisedLinear if layer == 0 else torch.nn.Identity
    assert isinstance(made.attention.v_proj, kind)


def test_formula_with_gains_that_differ() -> None:
    """alpha v_i + beta (A v)_i - gamma mean_{j<=i} v_j, each gain per head."""
    with seeded(1):
        layer = perturb(Attention(16, 4, "sas", layer=1, position="none")).double()
        x = torch.randn(2, 7, 16, dtype=torch.float64)
    q, k = (p(x).view(2, 7, 4, 4).transpose(1, 2) for p in (layer.q_proj, layer.k_proj))
    v = x.view(2, 7, 4, 4).transpose(1, 2)
    mean = v.cumsum(2) / torch.arange(1, 8)[:, None]
    alpha, beta, gamma = (
        getattr(layer.edits[0], n)[:, None, None] for n in ("alpha", "beta", "gamma")
    )
    plain = scaled_dot_product_attention(q, k, v, is_causal=True)
    want = alpha * v + beta * plain - gamma * mean
    torch.testing.assert_close(layer(x), want.transpose(1, 2).flatten(2))


def test_sas_block_at_the_start() -> None:
    """x <- Norm x (no attention skip), then x <- x + 0.1 MLP(Norm x)."""
    made, x = block("sas")
    after = made.attention_norm(x)
    torch.testing.assert_close(made(x), after + 0.1 * made.mlp(made.mlp_norm(after)))
    assert made.mlp(x).any(), "a zero MLP would prove nothing"


def test_sas_p_block_at_the_start() -> None:
    """x <- 0.1 MLP(Norm x) + Norm x, no skip at all."""
    made, x = block("sas-p")
    normed = made.attention_norm(x)
    torch.testing.assert_close(made(x), 0.1 * made.mlp(normed) + normed)


def test_gains_learn_and_removed_skips_do_not() -> None:
    made, _ = block("sas")
    names = {n for n, p in made.named_parameters() if "gain" in n}
    assert {"mlp_gain.gain", "attention_gain.gain"} <= names
    assert made.attention_skip.gain is None and made.attention_skip.absent
    assert block("sas-p")[0].mlp_skip.absent


def test_value_skipinit_starts_as_the_identity_map() -> None:
    made, x = block("v-skipinit")
    maps = made.attention.maps(x)
    torch.testing.assert_close(maps, torch.eye(7).double().expand_as(maps))
    assert made.attention.edits[0].gamma is None and not made.attention.edits[0].needs_mean


def test_parallel_block() -> None:
    """x <- x + Attention(Norm x) + MLP(Norm x)"""
    with seeded(2):
        made = perturb(Block(config("parallel"), 0)).double()
        x = torch.randn(2, 7, 16, dtype=torch.float64)
    normed = made.attention_norm(x)
    torch.testing.assert_close(made(x), x + made.attention(normed) + made.mlp(normed))


def test_removal_switches() -> None:
    """Each skip, norm and projection of the paper's removal study is a field."""
    made, x = block("transformer++(attention_skip=0,mlp_skip=0,norm=none,output_init=default)")
    attended = made.attention(x)
    torch.testing.assert_close(made(x), made.mlp(attended))
    half, x = block("transformer++(attention_skip=0.5,mlp_gain=2,output_init=default)")
    middle = 0.5 * x + half.attention(half.attention_norm(x))
    torch.testing.assert_close(half(x), middle + 2 * half.mlp(half.mlp_norm(middle)))


def test_one_norm_left() -> None:
    model = Decoder(config("sas(norms=first)"))
    norms = [type(layer.attention_norm).__name__ for layer in model.layers]
    assert norms == ["RMSNorm", "Identity"]
    assert isinstance(model.norm, torch.nn.Module) and type(model.norm).__name__ == "RMSNorm"
    assert type(Decoder(config("sas(final_norm=false)")).norm).__name__ == "Identity"


def test_orthogonal_start_is_saved() -> None:
    """The authors' initial matrices are lost on reload; ours are in the state."""
    made, x = block("v-skipinit")
    state = made.state_dict()
    start = state["attention.v_proj.initial"]
    torch.testing.assert_close(start @ start.T, torch.eye(16).double(), atol=1e-5, rtol=0)
    with seeded(9):
        other = Block(config("v-skipinit"), 1).double()
    assert not torch.equal(other(x), made(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), made(x))


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "transformer(attention_skip=1.0)+sas",
            "'transformer' and 'sas' cannot be combined.*attention_skip",
        ),
        ("sas+dcmha(backbone=dcpythia)", "'sas' and 'dcmha' cannot be combined: they set block"),
        ("sas+sas-p", "'sas' and 'sas-p' cannot be combined: they set block"),
        ("sas+parallel", "they set block to 'sequential' and 'parallel'"),
        ("dape+transformer++(position=rope)", "they set position to 'none' and 'rope'"),
    ],
)
def test_backbones_that_conflict_say_so(variant: str, message: str) -> None:
    with pytest.raises(SoftmapError, match=message):
        load(variant)


def test_identity_value_needs_full_heads() -> None:
    with pytest.raises(SoftmapError, match=r"value=.* keeps the width: expected 16 .* found 8"):
        Attention(16, 4, "sas", kv_heads=2)
