"""transformers' DiffLlama and our model of its weights say the same."""

from __future__ import annotations

import pytest
import torch
from interop_golden import largest
from transformers import DiffLlamaConfig, DiffLlamaForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

from softmap.errors import SoftmapError
from softmap.hf import SoftmapForCausalLM
from softmap.interop import from_diffllama

SMALL = {
    "vocab_size": 41, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-3,
}  # fmt: skip

CASES = [
    {},
    {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 6},
    {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 10},
    {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}},
    {"attention_bias": True, "num_key_value_heads": 2},
]


def make_model(change: dict, seed: int = 0) -> DiffLlamaForCausalLM:
    torch.manual_seed(seed)
    model = DiffLlamaForCausalLM(DiffLlamaConfig(**{**SMALL, **change})).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p.ndim == 1) * 0.5)
    return model


@pytest.mark.parametrize("change", CASES)
@torch.no_grad()
def test_equal_logits(change):
    theirs = make_model(change)
    ours = from_diffllama(theirs)
    ids = torch.randint(41, (2, 11))
    expected = theirs(ids).logits
    assert largest(ours(ids).logits, expected) < 1e-5 * expected.abs().max()
    out = ours(ids[:, :5])
    for n in range(5, 11):
        out = ours(ids[:, n : n + 1], past_key_values=out.past_key_values)
        assert largest(out.logits[:, 0], expected[:, n]) < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("change", CASES)
@torch.no_grad()
def test_equal_attention_in_float64(change):
    """Layer by layer, where their model has no float32 steps but lambda: left at its start."""
    theirs = make_model(change).double()
    ours = from_diffllama(theirs)
    for n, (one, two) in enumerate(zip(theirs.model.layers, ours.model.layers, strict=True)):
        attention: DiffLlamaAttention = one.self_attn
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            getattr(attention, name).zero_()
            getattr(two.attention.edits[0], name).zero_()
        x = torch.randn(2, 7, 24, dtype=torch.float64)
        theta = theirs.config.rope_parameters["rope_theta"]
        y = attention(x, angles(7, attention.head_dim, theta), causal(7))[0]
        assert largest(two.attention(x), y) < 1e-10 * y.abs().max(), n


def angles(T: int, d: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    turn = theta ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = (torch.arange(T, dtype=torch.float64)[:, None] * turn).repeat(1, 2)[None]
    return angle.cos(), angle.sin()


def causal(T: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, T, T, dtype=torch.float64)
    return mask.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)


def test_the_pairs_are_moved():
    """Without moving rows the logits differ: the test above can fail."""
    theirs = make_model({})
    ours = from_diffllama(theirs)
    ids = torch.randint(41, (1, 9))
    state = theirs.model.layers[0].self_attn.q_proj.weight
    ours.model.layers[0].attention.q_proj.weight.data.copy_(state)
    assert largest(ours(ids).logits, theirs(ids).logits) > 1e-2


@torch.no_grad()
def test_from_a_folder(tmp_path):
    theirs = make_model(CASES[1])
    theirs.save_pretrained(tmp_path)
    ours = from_diffllama(tmp_path)
    assert isinstance(ours, SoftmapForCausalLM)
    ids = torch.randint(41, (1, 6))
    assert torch.equal(ours(ids).logits, from_diffllama(theirs)(ids).logits)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(tmp_path):
    ours = from_diffllama(make_model(CASES[3]).to(torch.bfloat16))
    assert ours.dtype == torch.bfloat16
    ours.save_pretrained(tmp_path)
    again = SoftmapForCausalLM.from_pretrained(tmp_path)
    ids = torch.randint(41, (1, 6))
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_what_cannot_be_represented(tmp_path):
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(SoftmapError, match=r"rope_type='linear' cannot be represented"):
        from_diffllama(make_model({"rope_parameters": scaled}))
    with pytest.raises(SoftmapError, match=r"hidden_act='gelu' cannot be represented, only 'silu'"):
        from_diffllama(make_model({"hidden_act": "gelu"}))
    llama = LlamaForCausalLM(LlamaConfig(**SMALL))
    with pytest.raises(SoftmapError, match=r"takes a DiffLlamaForCausalLM.*found LlamaForCausalLM"):
        from_diffllama(llama)
    llama.save_pretrained(tmp_path)
    with pytest.raises(SoftmapError, match=r"model_type must be diffllama, found 'llama'"):
        from_diffllama(tmp_path)
