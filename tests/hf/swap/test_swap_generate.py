"""``generate`` of swapped models: cache, padding, beams and guesses change nothing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from generating import PROMPT, check_left_padding
from generating import generated as generated_of_length
from transformers import DynamicCache, StaticCache

from softmap.errors import SoftmapError

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False, "num_return_sequences": 2},
    "samples": {"do_sample": True, "top_k": 9, "num_return_sequences": 2},
}
CASES = [
    ("diff2", "Qwen3", None),
    ("diff+dcmha", "Llama", [0, 2]),
    ("dcmha(pattern=LG,window=3)", "Mistral", [0, 1]),
    ("dape", "Qwen2", [0, 1]),
    ("diff2", "GPTNeoX", [-1]),
]
Build = Callable[..., Any]
generated = functools.partial(generated_of_length, tokens=8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("variant", "name", "layers"), CASES)
def test_cache_changes_nothing(
    swapped: Build, variant: str, name: str, layers: Any, way: str
) -> None:
    model, ids = swapped(variant, name, layers), torch.cat([PROMPT, PROMPT.flip(1)])
    cached = generated(model, ids, **WAYS[way])
    assert cached.shape[1] == 19
    assert torch.equal(cached, generated(model, ids, use_cache=False, **WAYS[way]))


@pytest.mark.parametrize(("variant", "name", "layers"), CASES)
def test_left_padding_changes_nothing(swapped: Build, variant: str, name: str, layers: Any) -> None:
    check_left_padding(swapped(variant, name, layers))


@pytest.mark.parametrize(("variant", "name", "layers"), CASES)
def test_a_cache_is_filled_in_parts(swapped: Build, variant: str, name: str, layers: Any) -> None:
    """By calls, by the user's own empty cache, by chunks of a prompt, by a prompt that goes on."""
    model = swapped(variant, name, layers)
    whole = model(PROMPT).logits
    cache, parts = DynamicCache(), []
    for part in PROMPT.split([5, 1, 5], 1):
        out = model(part, past_key_values=cache)
        assert out.past_key_values is cache
        parts.append(out.logits)
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)
    plain = generated(model, PROMPT, do_sample=False)
    assert torch.equal(generated(model, PROMPT, do_sample=False, prefill_chunk_size=4), plain)
    begun = DynamicCache(config=model.config)
    model(PROMPT[:, :6], past_key_values=begun)
    assert torch.equal(generated(model, PROMPT, do_sample=False, past_key_values=begun), plain)


@pytest.mark.parametrize(("variant", "name", "layers"), CASES[:2])
def test_a_cache_holds_padding_at_the_right(
    swapped: Build, variant: str, name: str, layers: Any
) -> None:
    """The tokens that follow it are what they are without."""
    model = swapped(variant, name, layers)
    real = torch.tensor([[1] * 6 + [0] * 2 + [1] * 3, [1] * 11])
    ids = PROMPT.repeat(2, 1)
    cache = model(ids[:, :8], attention_mask=real[:, :8], use_cache=True).past_key_values
    last = model(ids[:, 8:], attention_mask=real, past_key_values=cache).logits
    for row, mask, found in zip(ids, real.bool(), last, strict=True):
        assert torch.allclose(found, model(row[mask][None]).logits[0, -3:], atol=1e-5)


@pytest.mark.parametrize(("variant", "name", "layers"), CASES)
def test_refused_guesses_leave_no_trace(
    swapped: Build, variant: str, name: str, layers: Any
) -> None:
    """Prompt lookup, and another model as the assistant: both crop the cache."""
    model = swapped(variant, name, layers)
    plain = generated(model, PROMPT, do_sample=False)
    guessed = generated(model, PROMPT, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed, plain)
    assistant = swapped("gated", "Mistral", [0])
    assert torch.equal(generated(model, PROMPT, do_sample=False, assistant_model=assistant), plain)


def test_caches_are_bounded_by_each_window(swapped: Build) -> None:
    """The variant's where it is narrower, and the masks of the others do not notice."""
    model = swapped("dcmha(pattern=LG,window=3)", "Mistral", [0, 1])
    out = generated(model, PROMPT, do_sample=False, return_dict_in_generate=True)
    assert type(out.past_key_values) is DynamicCache
    assert [layer.keys.shape[2] for layer in out.past_key_values.layers] == [2, 3, 3]
    assert out.past_key_values.get_seq_length() == 18


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache_implementation": "static"}, "cache_implementation must be dynamic"),
        ({"cache_implementation": "quantized"}, "cache_implementation must be dynamic"),
        ({"cache_implementation": "offloaded"}, "cache_implementation must be dynamic"),
        ({"attention_mask": torch.tensor([[1] * 10 + [0]])}, "padding at the left"),
        ({"past_key_values": ()}, "must be a DynamicCache"),
    ],
)
def test_refused(swapped: Build, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SoftmapError, match=words):
        generated(swapped("diff2", layers=[1]), PROMPT, **options)


def test_a_cache_of_another_model_is_refused(swapped: Build, family: Build) -> None:
    caches = [
        family()(PROMPT).past_key_values,
        swapped("diff2", layers=[0])(PROMPT).past_key_values,
        swapped("dcmha")(PROMPT).past_key_values,
        StaticCache(config=family().config, max_cache_len=20),
        ((),),
    ]
    model = swapped("diff2")
    for cache in caches:
        with pytest.raises(SoftmapError, match="past_key_values must be"):
            model(PROMPT, past_key_values=copy.copy(cache))
