"""``GenerationMixin`` and the fields of ``GenerationConfig``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from interface_table import IDS, complete, refuses, runs, small, words
from transformers import CompileConfig, GenerationConfig, GenerationMixin

# They choose among the logits, or say when to stop: whatever the model.
OF_LOGITS = words(
    "bad_words_ids begin_suppress_tokens do_sample early_stopping "
    "encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff "
    "eta_cutoff exponential_decay_length_penalty forced_bos_token_id "
    "forced_eos_token_id length_penalty max_length max_new_tokens max_time "
    "min_length min_new_tokens min_p no_repeat_ngram_size remove_invalid_values "
    "renormalize_logits repetition_penalty sequence_bias stop_strings "
    "suppress_tokens temperature token_healing top_h top_k top_p typical_p "
    "watermarking_config bos_token_id eos_token_id pad_token_id output_logits "
    "output_scores return_dict_in_generate low_memory"
)
# Of an assistant that proposes tokens, of an encoder, and of transformers' own book-keeping.
OF_OTHERS = words(
    "assistant_confidence_threshold assistant_ensemble_weight assistant_lookbehind "
    "decoder_start_token_id is_assistant max_matching_ngram_size "
    "num_assistant_tokens num_assistant_tokens_schedule speculation_type "
    "target_lookbehind transformers_version _from_model_config "
    "continuous_batching_config disable_compile"
)


def says(model: Any, **options: Any) -> torch.Tensor:
    torch.manual_seed(0)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1} | options
    return model.generate(IDS, **options)


def unchanged(**options: Any) -> Callable[[Any], None]:
    """The option is about how, not what: greedy tokens stay as they are."""

    def check(model: Any) -> None:
        assert torch.equal(says(model, **options), says(model))

    return check


def as_without_a_cache(**options: Any) -> Callable[[Any], None]:
    def check(model: Any) -> None:
        assert torch.equal(says(model, **options), says(model, use_cache=False, **options))

    return check


def prompt_lookup(model: Any) -> None:
    one = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}
    plain = model.generate(IDS[:1], **one)
    assert torch.equal(model.generate(IDS[:1], prompt_lookup_num_tokens=2, **one), plain)


def recorded(model: Any) -> None:
    """At each step the hidden states and edited maps that a pass over all tokens gives."""
    out = says(
        model, return_dict_in_generate=True, output_attentions=True, output_hidden_states=True
    )
    whole = model(out.sequences[:, :-1], output_attentions=True, output_hidden_states=True)
    assert [len(step) for step in out.attentions] == [2] * 5
    for n in range(2):
        last = out.attentions[-1][n]
        torch.testing.assert_close(last, whole.attentions[n][:, :, -1:])
        torch.testing.assert_close(out.hidden_states[-1][n], whole.hidden_states[n][:, -1:])


def guided(model: Any) -> None:
    assert says(model, guidance_scale=1.5).shape == (2, 12)


HONOURED: dict[str, Callable[[Any], None]] = {
    "generate": unchanged(),
    "use_cache": unchanged(use_cache=False),
    "prefill_chunk_size": unchanged(prefill_chunk_size=3),
    "prepare_inputs_for_generation": unchanged(position_ids=torch.arange(7)[None].expand(2, -1)),
    "num_beams": as_without_a_cache(num_beams=3),
    "num_return_sequences": as_without_a_cache(num_beams=3, num_return_sequences=2),
    "prompt_lookup_num_tokens": prompt_lookup,
    **dict.fromkeys(["output_attentions", "output_hidden_states"], recorded),
    "guidance_scale": guided,
}
REFUSED: dict[str, Callable[[Any], Any]] = {
    **{
        f"cache_implementation={kind}": lambda m, kind=kind: says(m, cache_implementation=kind)
        for kind in ("static", "offloaded", "offloaded_static", "quantized", "paged")
    },
    "cache_implementation": lambda m: says(m, cache_implementation="offloaded_hybrid"),
    "cache_config": lambda m: says(m, cache_config={"backend": "hqq"}),
    "max_cache_len": lambda m: says(m, max_cache_len=99),
    "compile_config": lambda m: says(m, compile_config=CompileConfig()),
    "assistant_early_exit": lambda m: says(m, assistant_early_exit=1),
    "use_mtp": lambda m: says(m, use_mtp=True),
    "penalty_alpha": lambda m: says(m, penalty_alpha=0.6, top_k=4),
    "dola_layers": lambda m: says(m, dola_layers="low"),
    "constraints": lambda m: says(m, constraints=[object()], num_beams=2),
    "force_words_ids": lambda m: says(m, force_words_ids=[[3]], num_beams=2),
    "num_beam_groups": lambda m: says(m, num_beams=2, num_beam_groups=2, diversity_penalty=0.5),
    "diversity_penalty": lambda m: says(m, num_beams=2, num_beam_groups=2, diversity_penalty=0.5),
    "generate_batch": lambda m: m.generate_batch([[1, 2, 3]]),
    "init_continuous_batching": lambda m: m.init_continuous_batching(),
    "continuous_batching_context_manager": lambda m: (
        m.continuous_batching_context_manager().__enter__()
    ),
    "documents": lambda m: says(m, documents=torch.zeros_like(IDS)),
    "token_type_ids": lambda m: says(m, token_type_ids=IDS),
    "a typing error": lambda m: says(m, atention_mask=IDS),
}
UNCONCERNED = {
    **dict.fromkeys(OF_LOGITS, "chooses among the logits, or says when to stop"),
    **dict.fromkeys(OF_OTHERS, "of an assistant, of an encoder or of transformers alone"),
    "adjust_generation_fn": "reads files",
    "compute_transition_scores": "adds scores up",
    "destroy_cached_continuous_batching_manager": "there is none to destroy",
    "heal_tokens": "of tokenizers",
    "load_custom_generate": "loads code, and only where trusted",
    "output_modalities": "text",
}


def test_every_name_is_decided() -> None:
    names = {n for n in dir(GenerationMixin) if not n.startswith("_")}
    complete(names | set(GenerationConfig().to_dict()), HONOURED, REFUSED, UNCONCERNED)


@pytest.mark.parametrize("variant", ["diff+dape", "dcmha(pattern=LG,window=4)"])
@runs(HONOURED)
def test_honoured(name: str, variant: str) -> None:
    HONOURED[name](small(variant))


@runs(REFUSED)
def test_refused(name: str) -> None:
    refuses(lambda: REFUSED[name](small()))
