"""What transformers writes into every config.json beside a model's own fields.

Older versions wrote all of these, newer ones write a few. None is a size or a switch of the two
models that are read here, so each must say what transformers assumes without it.
"""

from __future__ import annotations

from typing import Any

# Where the file came from, names of labels and classes, how the numbers were stored.
NOTES = (
    "architectures", "auto_map", "_name_or_path", "_commit_hash", "transformers_version",
    "model_type", "torch_dtype", "dtype", "tokenizer_class", "problem_type", "id2label",
    "label2id", "finetuning_task", "task_specific_params", "_attn_implementation_autoset",
)  # fmt: skip

FIXED: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "use_bfloat16": False,
    "tf_legacy_loss": False,
    "pruned_heads": {},
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "quantization_config": None,
    "prefix": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
}

# Defaults of generation. Newer versions keep these in generation_config.json, which is read.
GENERATION: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

# Read by OptionReader.tokens and by the loaders.
READ = ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache")
