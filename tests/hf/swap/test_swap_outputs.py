"""A swapped model computes what its weights and its variant say, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from softmap.hf import swap

IDS = torch.randint(3, 31, (3, 9), generator=torch.Generator().manual_seed(0))
LEFT = torch.ones(3, 9, dtype=torch.long)
LEFT[0, :4] = LEFT[1, :1] = 0
Build = Callable[..., Any]


@torch.no_grad()
def logits(model: Any, **kwargs: Any) -> Tensor:
    return model(**kwargs).logits


def close(a: Tensor, b: Tensor, mask: Tensor | None = None) -> bool:
    rows = slice(None) if mask is None else mask.bool()
    return torch.allclose(a[rows], b[rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [None, [0, -1]])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3", "GPTNeoX"])
def test_plain_control_is_the_model_itself(
    family: Build, plain_logits: Build, name: str, layers: Any
) -> None:
    """Rotary positions, windows, biases, QK norms and grouped heads are the model's own."""
    model = family(name).float()  # in float64 eager's rows of padding are NaN
    for mask in (None, LEFT, LEFT.flip(1)):
        expected = plain_logits(model, input_ids=IDS, attention_mask=mask)
        own = swap(copy.deepcopy(model), "transformer++", layers)
        assert close(logits(own, input_ids=IDS, attention_mask=mask), expected, mask)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_scaled_rotary_positions(family: Build, plain_logits: Build, rope: dict[str, Any]) -> None:
    rope = {"rope_theta": 1000.0, "original_max_position_embeddings": 4, **rope}
    model = family("Llama", rope_parameters=rope, max_position_embeddings=8)
    own = swap(copy.deepcopy(model), "transformer++")
    assert close(logits(own, input_ids=IDS), plain_logits(model, input_ids=IDS))


@pytest.mark.parametrize("variant", ["temperature", "talking-heads"])
def test_variants_that_start_as_the_identity(family: Build, variant: str) -> None:
    model = family()
    before = logits(model, input_ids=IDS)
    assert close(logits(swap(model, variant), input_ids=IDS), before)


@pytest.mark.parametrize("variant", ["dcmha", "diff", "diff2", "gated", "alibi", "dape", "nope"])
def test_the_others_do_not(family: Build, variant: str) -> None:
    model = family()
    before = logits(model, input_ids=IDS)
    assert not close(logits(swap(model, variant), input_ids=IDS), before)


def test_diff2_by_hand(swapped: Build, family: Build) -> None:
    """Each head keeps its query, key and value; the second query of a pair is new."""
    plain, model = family(num_hidden_layers=1), swapped("diff2", num_hidden_layers=1)
    seen: list[Any] = []
    own = model.model.layers[0].self_attn
    own.register_forward_hook(lambda m, a, kw, out: seen.append((kw, out)), with_kwargs=True)
    logits(model, input_ids=IDS)
    given, (out, _) = seen[0]
    x, old = given["hidden_states"], plain.model.layers[0].self_attn

    def heads(linear: Any) -> Tensor:
        return linear(x).unflatten(-1, (-1, 8)).transpose(1, 2)

    q, k, v = heads(own.attention.q_proj), heads(old.k_proj), heads(old.v_proj)
    q, k = apply_rotary_pos_emb(q, k, *given["position_embeddings"])
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    hidden = torch.ones(9, 9).triu(1).bool()
    one, two = (
        (q[:, n::2] @ k.mT / 8**0.5).masked_fill(hidden, -torch.inf).softmax(-1) for n in (0, 1)
    )
    weight = torch.sigmoid(own.attention.edits[0].to_lambda(x)).transpose(1, 2)[..., None]
    o = ((one - weight * two) @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(out, old.o_proj(o), atol=1e-6)
    rows = own.attention.q_proj.weight.unflatten(0, (-1, 8))
    assert torch.equal(rows[0::2].flatten(0, 1), old.q_proj.weight)


@pytest.mark.parametrize("variant", ["diff", "diff2", "dcmha"])
def test_kept_queries_read_the_keys_that_they_read_before(family: Build, variant: str) -> None:
    model = family(hidden_size=64, num_attention_heads=8, num_key_value_heads=2)
    old = copy.deepcopy(model.model.layers[0].self_attn)
    own = swap(model, variant).model.layers[0].self_attn.attention
    rows = own.q_proj.weight.unflatten(0, (-1, 8))
    for head, kept in enumerate(old.q_proj.weight.unflatten(0, (-1, 8))):
        place = [n for n, row in enumerate(rows) if torch.equal(row, kept)]
        assert len(place) == 1
        assert own.heads.key_of_map[place[0]] == head // 4
    for name in ("k_proj", "v_proj", "o_proj"):
        assert torch.equal(getattr(own, name).weight, getattr(old, name).weight)
        assert getattr(own, name).bias is not None


@pytest.mark.parametrize("variant", ["alibi", "kerple", "fire", "nope", "dape"])
def test_positions_of_its_own_replace_the_rotary(swapped: Build, variant: str) -> None:
    """Then the model's rotary base says nothing."""
    two = [
        swapped(variant, rope_parameters={"rope_type": "default", "rope_theta": theta})
        for theta in (10.0, 10000.0)
    ]
    assert torch.equal(*(logits(model, input_ids=IDS) for model in two))


def test_the_narrower_window_wins(swapped: Build) -> None:
    def windows(variant: str, name: str) -> list[int | None]:
        return [m.attention.window for m in swapped(variant, name).model.swapped_layers().values()]

    local = "dcmha(pattern=LG,window=3)"
    assert windows("dcmha", "Mistral") == [4, 4, 4]
    assert windows("dcmha", "Qwen2") == [None, 4, 4]
    assert windows(local, "Mistral") == [3, 4, 3]
    assert windows(local, "Llama") == [3, None, 3]
    assert windows(local.replace("3", "9"), "Qwen2") == [9, 4, 4]


@pytest.mark.parametrize("layers", [None, [1]])
@pytest.mark.parametrize("variant", ["diff2", "dape", "dcmha(pattern=LG,window=3)"])
def test_each_row_is_what_it_is_alone(swapped: Build, variant: str, layers: Any) -> None:
    """Padding left, right and among the tokens."""
    model = swapped(variant, layers=layers)
    among = torch.tensor([[1, 1, 0, 0, 1, 1, 1, 0, 1]]).repeat(3, 1)
    for mask in (LEFT, LEFT.flip(1), among):
        together = logits(model, input_ids=IDS, attention_mask=mask)
        for row, real, found in zip(IDS, mask.bool(), together, strict=True):
            assert close(found[real], logits(model, input_ids=row[real][None])[0])


@pytest.mark.parametrize("layers", [None, [1]])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "GPTNeoX"])
def test_packed_documents_do_not_see_each_other(swapped: Build, name: str, layers: Any) -> None:
    model = swapped("diff2", name, layers)
    places, ends = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), torch.tensor([0, 4, 9])
    said = [{"position_ids": places}, {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}]
    said += [{"position_ids": places, "attention_mask": torch.ones(1, 9, dtype=torch.long)}]
    said += [{"seq_idx": torch.tensor([[0] * 4 + [1] * 5])}]
    alone = [logits(model, input_ids=part) for part in (IDS[:1, :4], IDS[:1, 4:])]
    for way in said:
        assert close(logits(model, input_ids=IDS[:1], **way), torch.cat(alone, 1))


@pytest.mark.parametrize("layers", [None, [1]])
def test_maps_are_the_edited_ones(swapped: Build, family: Build, layers: Any) -> None:
    """Of all layers, in order, and also where the model had handed out its own before."""
    expected = family(attn_implementation="eager")
    expected = expected(IDS, output_attentions=True, output_hidden_states=True)
    model = family(attn_implementation="eager")
    model(IDS, output_attentions=True)
    found = swap(model, "transformer++", layers)(
        IDS, output_attentions=True, output_hidden_states=True
    )
    assert len(found.attentions) == 3
    assert len(found.hidden_states) == 4
    for a, b in zip(found.attentions, expected.attentions, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert swapped("diff2")(IDS, output_attentions=True).attentions[1].min() < 0


def test_dtype_training_mode_and_generator_stay(family: Build) -> None:
    model = family().to(torch.bfloat16).train()
    assert swap(model, "diff2", [1]) is model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(m.training for m in model.modules())


def test_a_model_with_the_same_configuration_is_left_alone(family: Build) -> None:
    one = family()
    other = type(one)(one.config)
    swap(one, "diff2")
    assert other.config.model_type == "llama"
    assert type(other.config).__name__ == "LlamaConfig"
