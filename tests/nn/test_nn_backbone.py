"""Fields of the backbone: defaults, types, names, windows, and the layer that reads them."""

from __future__ import annotations

import pytest
import torch

from softmap.errors import SoftmapError
from softmap.nn import Attention, Backbone, Block, Decoder, ModelConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "rmsnrom"}, "norm: expected one of .*found 'rmsnrom' .did you mean 'rmsnorm'"),
        ({"skip": 1.0}, "no backbone field 'skip'"),
        ({"first_value": "lineer"}, "first_value: expected one of"),
        ({"pattern": "LX"}, "pattern: expected letters L and G, found 'LX'"),
        ({"pattern": "LG"}, "expected window >= 1, found None"),
        ({"window": 4}, "window 4 needs local layers: expected L in pattern, found 'G'"),
        ({"rotary_fraction": 0.0}, r"rotary_fraction: expected a number above 0 to 1, found 0.0"),
        ({"bias": 1}, "bias: expected true or false, found 1"),
        ({"mlp_gain": "big"}, "mlp_gain: expected a number, found 'big'"),
        (
            {"window": 2.5, "pattern": "L"},
            "window: expected a whole number from 1 to .*, found 2.5",
        ),
        (
            {"query_expansion": True},
            "query_expansion: expected a whole number from 1 to .*, found True",
        ),
        ({"norm": 3}, "norm: expected one of .*, found 3"),
    ],
)
def test_bad_field_is_one_line(fields: dict, message: str) -> None:
    with pytest.raises(SoftmapError, match=message) as error:
        Backbone.of(fields)
    assert "\n" not in str(error.value)


def test_later_sources_win() -> None:
    assert Backbone.of({"norm": "none", "bias": True}, {"norm": "layernorm"}).norm == "layernorm"
    b = Backbone.of({"value": "identity", "first_value": "residual", "norms": "first"})
    assert [b.layer_value(n) for n in range(2)] == ["residual", "identity"]
    assert [b.branch_norm(n, "attention") for n in range(2)] == ["rmsnorm", "none"]
    assert b.branch_norm(0, "mlp") == "none"


def model(variant: str = "transformer++", layers: int = 4, **backbone: object) -> Decoder:
    return Decoder(ModelConfig(variant, 50, 16, layers, 4, backbone=backbone))


@pytest.mark.parametrize("variant", ["transformer++", "dcmha(pattern=L,window=9)"])
def test_pattern_given_beside_the_variant(variant: str) -> None:
    """What the configuration says goes over what the variant says, layer by layer."""
    windows = [x.attention.window for x in model(variant, pattern="LGL", window=3).layers]
    assert windows == [3, None, 3, 3]


def test_window_of_a_layer_of_ones_own() -> None:
    assert Attention(16, 4, window=5).window == 5
    assert Attention(16, 4, "dcmha(pattern=LG)", window=5, layer=0).window == 5
    assert Attention(16, 4, "dcmha(pattern=LG)", window=5, layer=1).window is None


def test_branches_start_at_zero_unless_told() -> None:
    x = torch.randn(1, 3, 16)
    torch.testing.assert_close(Block(ModelConfig("diff", 50, 16, 1, 4), 0)(x), x)
    default = ModelConfig(
        "diff(head_norm=false)", 50, 16, 1, 4, backbone={"output_init": "default"}
    )
    assert not torch.allclose(Block(default, 0)(x), x)


@pytest.mark.parametrize(
    "variant",
    ["transformer++(attention_skip=0)", "transformer++(mlp_skip=0)", "parallel(mlp_skip=0)"],
)
def test_a_model_without_a_skip_still_learns(variant: str) -> None:
    torch.manual_seed(0)
    made = model(variant)
    out = made(torch.randint(0, 50, (2, 9)))
    (out * torch.randn_like(out)).sum().backward()
    assert out.abs().max() > 0.1
    assert all(layer.attention.o_proj.weight.grad.any() for layer in made.layers)


@pytest.mark.parametrize("name", ["kv_heads", "head_dim", "heads", "window", "query_expansion"])
def test_bad_sizes_of_a_layer(name: str) -> None:
    with pytest.raises(
        SoftmapError, match=f"{name}: expected a whole number from 1 to .*, found 0"
    ):
        Attention(**({"dim": 16, "heads": 4} | {name: 0}))
    with pytest.raises(
        SoftmapError, match=f"{name}: expected a whole number from 1 to .*, found '4'"
    ):
        Attention(**({"dim": 16, "heads": 4} | {name: "4"}))


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 15), (1, 1, 3, 16)])
def test_input_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(SoftmapError, match=r"x must be \(batch, tokens, 16\), found"):
        Attention(16, 4)(torch.zeros(shape))


def test_transformer_is_gpt_like() -> None:
    made = model("transformer")
    assert made.embed_positions.num_embeddings == 2048
    layer = made.layers[0]
    assert isinstance(layer.mlp_norm, torch.nn.LayerNorm) and layer.mlp.kind == "gelu"
    assert layer.attention.q_proj.bias is not None
    with pytest.raises(SoftmapError, match="learned positions reach 4 tokens, found 5"):
        small = ModelConfig("transformer", 50, 16, 1, 4, max_position_embeddings=4)
        Decoder(small)(torch.zeros(1, 5, dtype=torch.long))
    ids, packed = torch.zeros(1, 5, dtype=torch.long), torch.tensor([[0, 0, 1, 1, 1]])
    assert Decoder(small)(ids, documents=packed).shape == (1, 5, 16)
    with pytest.raises(SoftmapError, match="learned positions reach 4 tokens, found 5"):
        Decoder(small)(ids, documents=packed * 0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hidden_size": 18}, "hidden_size must be a multiple of num_attention_heads, found 18"),
        (
            {"num_hidden_layers": 0},
            "num_hidden_layers: expected a whole number from 1 to .*, found 0",
        ),
        (
            {"num_key_value_heads": 0},
            "num_key_value_heads: expected a whole number from 1 to .*, found 0",
        ),
        ({"head_dim": 0}, "head_dim: expected a whole number from 1 to .*, found 0"),
        (
            {"intermediate_size": 0},
            "intermediate_size: expected a whole number from 1 to .*, found 0",
        ),
        (
            {"max_position_embeddings": 0},
            "max_position_embeddings: expected a whole number from 1 to .*, found 0",
        ),
        ({"hidden_size": "16"}, "hidden_size: expected a whole number from 1 to .*, found '16'"),
        ({"hidden_size": 16.0}, "hidden_size: expected a whole number from 1 to .*, found 16.0"),
        (
            {"num_attention_heads": True},
            "num_attention_heads: expected a whole number from 1 to .*, found True",
        ),
        ({"vocab_size": None}, "vocab_size: expected a whole number from 1 to .*, found None"),
        (
            {"initializer_range": 0.0},
            "initializer_range: expected a number above 0 or nothing, found 0.0",
        ),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings: expected true or false, found 'no'"),
        ({"impl": None}, "impl: expected text, found None"),
        ({"backbone": "norm"}, "backbone: expected a mapping, found 'norm'"),
    ],
)
def test_bad_sizes(sizes: dict, message: str) -> None:
    with pytest.raises(SoftmapError, match=message):
        ModelConfig(**({"num_attention_heads": 4, "hidden_size": 16} | sizes))


def test_documents_beside_a_cache_are_refused() -> None:
    made, ids = model(), torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(SoftmapError, match="a cache holds one document a sequence"):
        made(ids, caches=made.new_caches(), documents=ids)
    layer = Attention(16, 4)
    with pytest.raises(SoftmapError, match="a cache holds one document a sequence"):
        layer(torch.zeros(1, 3, 16), cache=layer.new_cache(), documents=ids)


def test_mask_of_another_length() -> None:
    ids = torch.zeros(1, 3, dtype=torch.long)
    with pytest.raises(SoftmapError, match=r"the mask must be \(batch, 3\).*\(1, 2\)"):
        model()(ids, torch.ones(1, 2).long())
    with pytest.raises(SoftmapError, match=r"the mask must be \(batch, 3\).*\(1, 1, 3, 3\)"):
        model()(ids, torch.ones(1, 1, 3, 3))
    with pytest.raises(SoftmapError, match=r"the mask must be boolean .* found torch.float32"):
        model()(ids, torch.zeros(1, 3))
    with pytest.raises(SoftmapError, match=r"the mask must be \(batch, 3\).*\(1, 4\)"):
        Attention(16, 4)(torch.zeros(1, 3, 16), key_mask=ids.new_ones(1, 4))


@pytest.mark.parametrize("variant", ["transformer++", "diff+dcmha", "diff2+dape", "sas", "gated"])
def test_autocast_stays_near_float32(variant: str) -> None:
    torch.manual_seed(0)
    made = model(variant, 2, output_init="default")
    ids = torch.randint(0, 50, (2, 9))
    want = made(ids)
    with torch.autocast("cpu", torch.bfloat16):
        got = made(ids)
    got.float().pow(2).mean().backward()
    assert (got.float() - want).norm() < 0.05 * want.norm()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def test_docstring_example_of_a_drop_in_layer() -> None:
    assert Attention(512, 8, "diff+dcmha")(torch.randn(1, 5, 512)).shape == (1, 5, 512)


def test_what_was_changed() -> None:
    assert Backbone().changed() == {}
    fields = {"qk_norm": True, "pattern": "LG", "window": 4, "bias": False}
    assert Backbone.of(fields).changed() == {"qk_norm": True, "pattern": "LG", "window": 4}
