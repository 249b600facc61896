"""``generate`` with the cache says what it says without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from generating import PROMPT, check_left_padding, generated

from softmap.errors import SoftmapError
from softmap.hf import SoftmapCache

VARIANTS = [
    "transformer++",
    "transformer",
    "diff+dcmha",
    "diff2",
    "dape",
    "sas",
    "dcmha(pattern=LG,window=4)",
]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_k": 20},
    "beams": {"num_beams": 3, "do_sample": False, "num_return_sequences": 2},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_cache_changes_nothing(make: Callable[..., Any], variant: str, way: str) -> None:
    model, ids = make(variant), torch.cat([PROMPT, PROMPT.flip(1)])
    cached = generated(model, ids, **WAYS[way])
    assert cached.shape[1] == 21
    assert torch.equal(cached, generated(model, ids, use_cache=False, **WAYS[way]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_refused_guesses_leave_no_trace(make: Callable[..., Any], variant: str) -> None:
    """Prompt lookup, and another model as the assistant: both crop the cache."""
    model = make(variant)
    plain = generated(model, PROMPT, do_sample=False)
    guessed = generated(model, PROMPT, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(guessed, plain)
    assistant = make("sas", seed=5)
    assisted = generated(model, PROMPT, do_sample=False, assistant_model=assistant)
    assert torch.equal(assisted, plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_left_padding_changes_nothing(make: Callable[..., Any], variant: str) -> None:
    check_left_padding(make(variant))


def test_cache_is_ours_and_is_bounded_by_the_window(make: Callable[..., Any]) -> None:
    model = make("dcmha(pattern=LG,window=4)")
    out = generated(model, PROMPT, do_sample=False, return_dict_in_generate=True)
    cache = out.past_key_values
    assert isinstance(cache, SoftmapCache)
    assert cache.get_seq_length() == 20
    local, whole = cache.own
    factors = {f"{n}.{t}" for n in (0, 1) for t in ("k1", "k2", "kg")}
    assert {n for n, _ in local.tensors()} == {"k", "v"} | factors
    assert {t.shape[1 if n[0].isdigit() else 2] for n, t in local.tensors()} == {3}
    assert {t.shape[1 if n[0].isdigit() else 2] for n, t in whole.tensors()} == {20}


def test_chat_goes_on_from_a_cache(make: Callable[..., Any]) -> None:
    model = make("sas")
    first = generated(model, PROMPT, do_sample=False, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, PROMPT], 1)
    cache = first.past_key_values
    assert torch.equal(
        generated(model, longer, do_sample=False, past_key_values=cache),
        generated(model, longer, do_sample=False),
    )


def test_foreign_caches_are_refused(make: Callable[..., Any]) -> None:
    from transformers import DynamicCache

    model = make()
    with pytest.raises(SoftmapError, match=r"must be a SoftmapCache.*found DynamicCache"):
        model(PROMPT, past_key_values=DynamicCache())
    with pytest.raises(SoftmapError, match=r"cache_implementation must be dynamic.*'static'"):
        generated(model, PROMPT, cache_implementation="static")
    with pytest.raises(SoftmapError, match="exactly one of input_ids and inputs_embeds"):
        model()
